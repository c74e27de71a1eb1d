"""A plugin of these tests: errors of the size of rounding, planted in the transformer's output."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch

from backends.base import Pipeline
from backends.worker.patches import patch
from tests.selftest.faults.planting import become, module, on_output


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


SMALL = 7e-7
"""Relative to the output: some three healthy float32 distances of micro-2b."""


@patch("small_gain")
def small_gain(pipeline: Pipeline) -> None:
    """Another mathematics: the output 1 + `SMALL` times as large, at any precision."""
    on_output(module(pipeline, "transformer"), lambda out: (out[0] * (1 + SMALL),))


@patch("small_noise")
def small_noise(pipeline: Pipeline) -> None:
    """More rounding: noise of `SMALL` in float32, and in proportion to the roundoff elsewhere."""

    def noisy(out: Any) -> Any:
        velocity = out[0]
        size = SMALL * torch.finfo(velocity.dtype).eps / torch.finfo(torch.float32).eps
        draw = torch.Generator().manual_seed(0)
        noise = torch.randn(velocity.shape, generator=draw, dtype=torch.float64).to(velocity.dtype)
        return (velocity + size * velocity.std() * noise,)

    on_output(module(pipeline, "transformer"), noisy)


def _float(value: Any) -> Any:
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.float() if floating else value
