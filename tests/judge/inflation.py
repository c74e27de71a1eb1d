"""A plugin of these tests: a transformer whose rounding error is twice what it should be."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch

from backends.base import Pipeline
from backends.faults.planting import become, module
from backends.patches import patch


@patch("error_doubled")
def error_doubled(pipeline: Pipeline) -> None:
    """At reduced precision, v + (v - o) in place of v, with o the same call in float32.

    In float32, as the probes ask for the collapse, nothing changes.
    """
    transformer = module(pipeline, "transformer")
    precise, plain = deepcopy(transformer).float(), type(transformer).forward

    def forward(self: Any, **given: Any) -> Any:
        velocity = plain(self, **given)[0]
        if velocity.dtype == torch.float32:
            return (velocity,)
        oracle = precise(**{name: _float(value) for name, value in given.items()})[0]
        return ((2 * velocity.float() - oracle).to(velocity.dtype),)

    become(transformer, forward=forward)


def _float(value: Any) -> Any:
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.float() if floating else value
