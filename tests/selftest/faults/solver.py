"""Defects in the solvers' steps on Diffusers: DDIM and SDE-DPM-Solver++(2M)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any
from unittest.mock import patch as swapped

import torch
from torch import Tensor

from backends.base import Pipeline
from backends.worker.patches import patch
from tests.selftest.faults.planting import become, stack


def on_step(
    pipeline: Pipeline,
    before: Callable[[Any, dict[str, Any]], None] | None = None,
    after: Callable[[Any, dict[str, Any], Tensor], Tensor] | None = None,
) -> None:
    """Alter the arguments (by name) or the resulting latents of the scheduler's step."""
    scheduler = stack(pipeline).scheduler
    native = type(scheduler).step
    signature = inspect.signature(native)

    @functools.wraps(native)
    def step(self: Any, *arguments: Any, **keywords: Any) -> Any:
        bound = signature.bind(self, *arguments, **keywords)
        given: dict[str, Any] = bound.arguments
        if before is not None:
            before(self, given)
        result, *rest = native(*bound.args, **bound.kwargs)
        if after is not None:
            result = after(self, given, result)
        return (result, *rest)

    become(scheduler, step=step)


def _is_last(scheduler: Any, given: dict[str, Any]) -> bool:
    return int(given["timestep"]) < 1000 // scheduler.num_inference_steps


@patch("solver_first_order")
def first_order(pipeline: Pipeline) -> None:
    """The clean sample of the step before is forgotten: DPM stays first order."""

    def before(scheduler: Any, given: dict[str, Any]) -> None:
        if given["old_pred_original_sample"] is not None:
            given["old_pred_original_sample"] = _clean(scheduler, given)

    on_step(pipeline, before)


def _clean(scheduler: Any, given: dict[str, Any]) -> Tensor:
    """The clean sample that velocity and latents imply."""
    alpha = scheduler.alphas_cumprod[int(given["timestep"])]
    return alpha**0.5 * given["sample"] - (1 - alpha) ** 0.5 * given["model_output"]


@patch("solver_old_sample_stale")
def old_sample_stale(pipeline: Pipeline) -> None:
    """DPM extrapolates from the first step's clean sample in every step."""
    kept: dict[str, Any] = {}

    def before(scheduler: Any, given: dict[str, Any]) -> None:
        old = given["old_pred_original_sample"]
        if old is None:
            kept.clear()
        else:
            given["old_pred_original_sample"] = kept.setdefault("first", old)

    on_step(pipeline, before)


@patch("solver_epsilon_at_last_step")
def epsilon_at_last_step(pipeline: Pipeline) -> None:
    """Velocity is taken for noise in the last step only."""

    def before(scheduler: Any, given: dict[str, Any]) -> None:
        if _is_last(scheduler, given):
            alpha = scheduler.alphas_cumprod[int(given["timestep"])]
            clean = (given["sample"] - (1 - alpha) ** 0.5 * given["model_output"]) / alpha**0.5
            sample = given["sample"]
            given["model_output"] = (alpha**0.5 * sample - clean) / (1 - alpha) ** 0.5

    on_step(pipeline, before)


@patch("solver_clean_clipped")
def clean_clipped(pipeline: Pipeline) -> None:
    """The clean sample is clipped to [-1, 1], as pixel models do."""

    def before(scheduler: Any, given: dict[str, Any]) -> None:
        alpha = scheduler.alphas_cumprod[int(given["timestep"])]
        clean = _clean(scheduler, given).clamp(-1, 1)
        given["model_output"] = (alpha**0.5 * given["sample"] - clean) / (1 - alpha) ** 0.5

    on_step(pipeline, before)


@patch("solver_velocity_bf16")
def velocity_bf16(pipeline: Pipeline) -> None:
    """The solver is given a velocity rounded to bfloat16 in a float32 run."""

    def before(_scheduler: Any, given: dict[str, Any]) -> None:
        given["model_output"] = given["model_output"].bfloat16().float()

    on_step(pipeline, before)


@patch("solver_result_bf16")
def result_bf16(pipeline: Pipeline) -> None:
    """The solver's result is rounded to bfloat16 in a float32 run."""
    on_step(pipeline, after=lambda _s, _g, latents: latents.bfloat16().to(latents.dtype))


@patch("solver_result_scaled")
def result_scaled(pipeline: Pipeline) -> None:
    """Every step's result is 0.2 % too large."""
    on_step(pipeline, after=lambda _s, _g, latents: latents * 1.002)


@patch("solver_middle_step")
def middle_step(pipeline: Pipeline) -> None:
    """The result of step 4 of 8, and no other, is 1 % too large."""

    def after(_scheduler: Any, given: dict[str, Any], latents: Tensor) -> Tensor:
        return latents * 1.01 if int(given["timestep"]) == 499 else latents

    on_step(pipeline, after=after)


@patch("solver_last_step_skipped")
def last_step_skipped(pipeline: Pipeline) -> None:
    """The last step returns what it was given."""

    def after(scheduler: Any, given: dict[str, Any], latents: Tensor) -> Tensor:
        return given["sample"].to(latents.dtype) if _is_last(scheduler, given) else latents

    on_step(pipeline, after=after)


@patch("solver_first_step_noise_kept")
def first_step_noise_kept(pipeline: Pipeline) -> None:
    """The first step keeps 1 % of the latents, as if the terminal SNR were not zero."""

    def before(_scheduler: Any, given: dict[str, Any]) -> None:
        if int(given["timestep"]) == 999:
            given["model_output"] = given["model_output"] - 0.01 * given["sample"]

    on_step(pipeline, before)


def _multipliers(pipeline: Pipeline, change: Callable[[Any], Any]) -> None:
    """Let `change` replace DPM's multipliers."""
    scheduler = stack(pipeline).scheduler
    native = type(scheduler).get_mult

    def get_mult(self: Any, *arguments: Any, **keywords: Any) -> Any:
        return change(native(self, *arguments, **keywords))

    become(scheduler, get_mult=get_mult)


@patch("solver_extrapolation_halved")
def extrapolation_halved(pipeline: Pipeline) -> None:
    """DPM's second-order term is 1/(4r) in place of 1/(2r)."""

    def change(found: Any) -> Any:
        if len(found) == 2:
            return found
        keep, gain, here, back = found
        return keep, gain, 1 + (here - 1) / 2, back / 2

    _multipliers(pipeline, change)


def _noise(pipeline: Pipeline, change: Callable[[Tensor], Tensor]) -> None:
    """Let `change` replace the noise that DPM draws in its steps."""
    module: Any = import_module("diffusers.schedulers.scheduling_dpm_cogvideox")
    draw, scheduler = module.randn_tensor, stack(pipeline).scheduler
    native = type(scheduler).step

    def drawn(*arguments: Any, **keywords: Any) -> Tensor:
        return change(draw(*arguments, **keywords))

    @functools.wraps(native)
    def step(self: Any, *arguments: Any, **keywords: Any) -> Any:
        with swapped.object(module, "randn_tensor", drawn):
            return native(self, *arguments, **keywords)

    become(scheduler, step=step)


@patch("solver_without_noise")
def without_noise(pipeline: Pipeline) -> None:
    """DPM's noise is drawn and then left out: the deterministic solver by mistake."""
    _noise(pipeline, torch.zeros_like)


@patch("solver_noise_weak")
def noise_weak(pipeline: Pipeline) -> None:
    """DPM's step noise is 2 % too weak."""
    _noise(pipeline, lambda noise: noise * 0.98)
