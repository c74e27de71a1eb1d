"""Environment variables that libraries would take for something else, or for nothing, without a word."""

from __future__ import annotations

import os

from harness.errors import ConfigError

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


def _is_count(text: str) -> bool:
    return text.strip().isdecimal() and 1 <= int(text) <= 100_000
