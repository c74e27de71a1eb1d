"""Defects in guidance: the scale, where it applies, and what it is applied to.

Anything of the form a u + b c with a + b = 1 (u unconditional, c conditional) is guidance with another
scale, so the defects here are functions of (scale, timestep, steps). On Diffusers the native loop
reads `pipe.guidance_scale`, which becomes the defective one, and the hand-driven `predict` is
recombined from its branches; on SAT both go through one module function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch as swapped

from backends.base import Case, Pipeline, Prediction, Run
from backends.worker.patches import patch
from tests.selftest.faults.planting import altered, become, stack

ScaleOf = Callable[[float, int, int], float]
"""(right scale, timestep, number of steps) -> the scale that is used."""


def _steered(pipeline: Pipeline, scale_of: ScaleOf) -> Pipeline:
    if type(stack(pipeline)).__name__ == "SatEngine":
        return _steered_sat(pipeline, scale_of)
    become(stack(pipeline), guidance_scale=property(_native_scale(scale_of)))

    def recombine(prediction: Prediction, run: Run, step: int) -> Prediction:
        timesteps = run.schedule.timesteps
        if len(prediction.branches) < 2:
            return prediction
        scale = scale_of(prediction.guidance_scale, timesteps[step], len(timesteps))
        negative, positive = prediction.branches.float().chunk(2)
        velocity = negative + scale * (positive - negative)
        return replace(prediction, velocity=velocity, guidance_scale=scale)

    return altered(pipeline, prediction=recombine)


def _native_scale(scale_of: ScaleOf) -> Callable[[Any], float]:
    def scale(self: Any) -> float:
        return scale_of(
            float(self._guidance_scale), int(self._current_timestep), self._num_timesteps
        )

    return scale


def _steered_sat(pipeline: Pipeline, scale_of: ScaleOf) -> Pipeline:
    from backends.sat import denoiser

    native = denoiser.guidance_scale

    def scale(config: Any, steps: int, timestep: int) -> float:
        return scale_of(native(config, steps, timestep), timestep, steps)

    return altered(pipeline, within=lambda: swapped.object(denoiser, "guidance_scale", scale))


def _scale_fault(name: str) -> Callable[[ScaleOf], ScaleOf]:
    def register(scale_of: ScaleOf) -> ScaleOf:
        def plant(pipeline: Pipeline) -> Pipeline:
            return _steered(pipeline, scale_of)

        patch(name)(plant)
        return scale_of

    return register


@_scale_fault("guidance_branches_swapped")
def branches_swapped(scale: float, timestep: int, steps: int) -> float:
    """The conditional branch taken for the unconditional one: c + s (u - c)."""
    return 1 - scale


@_scale_fault("guidance_from_conditional")
def from_conditional(scale: float, timestep: int, steps: int) -> float:
    """Added to the conditional branch: c + s (c - u)."""
    return 1 + scale


@_scale_fault("guidance_off_at_last_step")
def off_at_last_step(scale: float, timestep: int, steps: int) -> float:
    """No guidance in the last step."""
    return 1.0 if timestep < 1000 // steps else scale


@_scale_fault("guidance_off_at_first_step")
def off_at_first_step(scale: float, timestep: int, steps: int) -> float:
    """No guidance in the first step."""
    return 1.0 if timestep >= 999 else scale


@_scale_fault("guidance_late_off")
def late_off(scale: float, timestep: int, steps: int) -> float:
    """No guidance in the second half, as an undeclared acceleration does."""
    return 1.0 if timestep < 500 else scale


@_scale_fault("guidance_rounded")
def rounded(scale: float, timestep: int, steps: int) -> float:
    """The scale is cut to a whole number."""
    return float(int(scale))


@_scale_fault("guidance_one_percent")
def one_percent(scale: float, timestep: int, steps: int) -> float:
    """The scale is 1 % too large."""
    return scale * 1.01


def _dynamic(steps: int, position: float, exponent: float = 5.0) -> float:
    return 1 + 6.0 * (1 - math.cos(math.pi * (position / steps) ** exponent)) / 2


@_scale_fault("guidance_by_step_index")
def by_step_index(scale: float, timestep: int, steps: int) -> float:
    """Dynamic guidance from the index of the step, not from the timestep."""
    return _dynamic(steps, (999 - timestep) * steps / 1000)


@_scale_fault("guidance_timestep_late")
def timestep_late(scale: float, timestep: int, steps: int) -> float:
    """Dynamic guidance from t - 1."""
    return _dynamic(steps, steps - timestep + 1)


@_scale_fault("guidance_exponent")
def exponent(scale: float, timestep: int, steps: int) -> float:
    """Dynamic guidance with exponent 1 in place of 5."""
    return _dynamic(steps, steps - timestep, 1.0)


def _called_with(name: str, **changes: Any) -> None:
    """Register patch `name`: the pipeline is called with other arguments than were asked for."""

    def change(case: Case) -> Case:
        return replace(case, **changes)

    def plant(pipeline: Pipeline) -> Pipeline:
        return altered(pipeline, case=change)

    patch(name)(plant)


_called_with("call_default_scale", guidance_scale=3.5)
_called_with("call_dynamic_guidance", dynamic_guidance=True)
_called_with("call_constant_guidance", dynamic_guidance=False)
_called_with("call_negative_prompt_dropped", negative_prompt="")
_called_with("call_ddim", sampler="ddim")
_called_with("call_dpm", sampler="dpm")
_called_with("call_one_step_less", steps=7)
