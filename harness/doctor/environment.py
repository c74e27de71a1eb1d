"""What a run needs around it: thread counts that are counts, and the extras of its backends."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from backends import registry
from harness.errors import ConfigError

if TYPE_CHECKING:
    from harness.config.config import RunConfig

_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def check_environment() -> None:
    """Raise `ConfigError` for a number of threads that is none; OpenMP would ignore it."""
    for name in _COUNTS:
        value = os.environ.get(name)
        # OpenMP takes one number for each level of nesting, "4,2".
        if value is not None and not all(_is_count(part) for part in value.split(",")):
            raise ConfigError(
                f"the environment variable {name} is {value!r}; expected a number of threads, or leave"
                " it unset"
            )


def check_installed(configs: Iterable[RunConfig]) -> None:
    """Raise `MissingPrerequisite` for a variant whose stack is an extra that is not installed.

    Said before the first render. What another interpreter (`python`) has, its worker finds out.
    """
    for config in configs:
        for variant in (config.reference, *config.candidates):
            if variant.python is None:
                registry.require(variant.backend)


def _is_count(text: str) -> bool:
    return text.strip().isdecimal() and 1 <= int(text) <= 100_000
