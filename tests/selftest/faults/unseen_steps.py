"""The adversary's defects in schedule, solver, guidance and the loop around them, on Diffusers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backends.base import Pipeline, Prediction, Run
from backends.noise import standard_normal
from backends.worker.patches import patch
from tests.selftest.faults.planting import altered, become, module, on_call, on_input, stack
from tests.selftest.faults.solver import on_step


@patch("unseen_solver_target_from_table")
def solver_target_from_table(pipeline: Pipeline) -> None:
    """A step goes to the next timestep of the table, not to t - 1000 // N, as a well-meant mending
    of both schedulers does. Shows only where N does not divide 1000."""
    kept: list[Any] = []

    def before(scheduler: Any, given: dict[str, Any]) -> None:
        kept[:] = [scheduler.alphas_cumprod]
        timesteps = [int(t) for t in scheduler.timesteps]
        now = int(given["timestep"])
        target = now - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
        after = [t for t in timesteps if t < now]
        if now not in timesteps or target < 0 or not after:
            return
        levels = scheduler.alphas_cumprod.clone()
        levels[target] = scheduler.alphas_cumprod[after[0]]
        scheduler.alphas_cumprod = levels

    def after(scheduler: Any, _given: dict[str, Any], latents: Tensor) -> Tensor:
        scheduler.alphas_cumprod = kept[0]
        return latents

    on_step(pipeline, before, after)


def _history(pipeline: Pipeline, change: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Let `change(result, clean sample)` replace what DPM remembers for its next step."""
    scheduler = stack(pipeline).scheduler
    native = type(scheduler).step

    @functools.wraps(native)
    def step(self: Any, *arguments: Any, **keywords: Any) -> Any:
        result, clean = native(self, *arguments, **keywords)
        return result, change(result, clean)

    become(scheduler, step=step)


@patch("unseen_solver_remembers_result")
def solver_remembers_result(pipeline: Pipeline) -> None:
    """DPM extrapolates from the last result in place of the last clean sample."""
    _history(pipeline, lambda result, clean: result)


@patch("unseen_solver_remembers_bf16")
def solver_remembers_bf16(pipeline: Pipeline) -> None:
    """DPM keeps the last clean sample in bfloat16 in a float32 run."""
    _history(pipeline, lambda result, clean: clean.bfloat16().to(clean.dtype))


@patch("unseen_solver_decimal_logarithms")
def solver_decimal_logarithms(pipeline: Pipeline) -> None:
    """DPM's log-SNR is a decimal logarithm, while its exponentials stay natural."""
    scheduler = stack(pipeline).scheduler
    native = type(scheduler).get_variables

    def get_variables(self: Any, *levels: Any) -> Any:
        h, r, now, after = native(self, *levels)
        decimal = torch.log10(torch.tensor(torch.e)).item()
        return h * decimal, r, now * decimal, after * decimal

    become(scheduler, get_variables=get_variables)


@patch("unseen_solver_levels_in_run_dtype")
def solver_levels_in_run_dtype(pipeline: Pipeline) -> None:
    """The levels are cast to the latents' dtype. Shows at reduced precision only."""
    kept: list[Any] = []

    def before(scheduler: Any, given: dict[str, Any]) -> None:
        kept[:] = [scheduler.alphas_cumprod]
        levels = scheduler.alphas_cumprod
        scheduler.alphas_cumprod = levels.to(given["sample"].dtype).to(levels.dtype)

    def after(scheduler: Any, _given: dict[str, Any], latents: Tensor) -> Tensor:
        scheduler.alphas_cumprod = kept[0]
        return latents

    on_step(pipeline, before, after)


@patch("unseen_solver_ddim_stochastic")
def solver_ddim_stochastic(pipeline: Pipeline) -> None:
    """DDIM adds a little noise of its own generator, as with a small eta."""

    def after(scheduler: Any, given: dict[str, Any], latents: Tensor) -> Tensor:
        if int(given["timestep"]) < 1000 // scheduler.num_inference_steps:
            return latents
        drawn = standard_normal(77, int(given["timestep"]), latents.shape)
        return latents + 0.005 * torch.from_numpy(drawn).to(latents)

    on_step(pipeline, after=after)


@patch("unseen_schedule_last_level_not_zero")
def schedule_last_level_not_zero(pipeline: Pipeline) -> None:
    """The noisiest level is 2^-24 in place of 0, as Euler schedulers keep it to divide by it."""
    scheduler = stack(pipeline).scheduler
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.clone()
    scheduler.alphas_cumprod[-1] = 2.0**-24


Combine = Callable[[Tensor, Tensor, float], Tensor]
"""(unconditional, conditional, scale) -> guided velocity; branches as they came, (1, T, C, H, W)."""


def _guided(pipeline: Pipeline, combine: Combine) -> Pipeline:
    """Let `combine` stand for guidance, in the native loop and in the hand-driven stage."""
    pipe = stack(pipeline)
    native_call, native_step = type(pipe).__call__, type(pipe.scheduler).step
    state: dict[str, Any] = {"native": False, "branches": None}

    def note(_arguments: Any, _keywords: Any, output: Any) -> Any:
        state["branches"] = output[0] if state["native"] else None
        return output

    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        state["native"] = True
        try:
            return native_call(self, *arguments, **keywords)
        finally:
            state["native"] = False

    @functools.wraps(native_step)
    def step(self: Any, model_output: Tensor, *arguments: Any, **keywords: Any) -> Any:
        if state["native"] and len(state["branches"]) == 2:
            negative, positive = state["branches"].chunk(2)
            model_output = combine(negative, positive, float(pipe.guidance_scale))
        return native_step(self, model_output, *arguments, **keywords)

    on_call(module(pipeline, "transformer"), note)
    become(pipe, __call__=call)
    become(pipe.scheduler, step=step)

    def recombine(prediction: Prediction, _run: Run, _step: int) -> Prediction:
        if len(prediction.branches) < 2:
            return prediction
        negative, positive = prediction.branches.chunk(2)
        velocity = combine(negative, positive, prediction.guidance_scale).float()
        return replace(prediction, velocity=velocity)

    return altered(pipeline, prediction=recombine)


def _plain(negative: Tensor, positive: Tensor, scale: float | Tensor) -> Tensor:
    return negative.float() + scale * (positive.float() - negative.float())


@patch("unseen_guidance_rescaled")
def guidance_rescaled(pipeline: Pipeline) -> Pipeline:
    """The guided velocity is brought 0.7 of the way to the conditional branch's deviation."""

    def combine(negative: Tensor, positive: Tensor, scale: float) -> Tensor:
        guided = _plain(negative, positive, scale)
        return guided * (0.7 * positive.float().std() / guided.std() + 0.3)

    return _guided(pipeline, combine)


@patch("unseen_guidance_ramp_over_frames")
def guidance_ramp_over_frames(pipeline: Pipeline) -> Pipeline:
    """The scale grows from 1 at the first latent frame to its value at the last, as in SVD."""

    def combine(negative: Tensor, positive: Tensor, scale: float) -> Tensor:
        ramp = torch.linspace(1, scale, negative.shape[1]).view(1, -1, 1, 1, 1)
        return _plain(negative, positive, ramp)

    return _guided(pipeline, combine)


@patch("unseen_guidance_projected")
def guidance_projected(pipeline: Pipeline) -> Pipeline:
    """The unconditional branch is first fitted to the conditional one, as in CFG-Zero*."""

    def combine(negative: Tensor, positive: Tensor, scale: float) -> Tensor:
        n, p = negative.float(), positive.float()
        return _plain(n * ((n * p).sum() / (n * n).sum()), p, scale)

    return _guided(pipeline, combine)


@patch("unseen_guidance_in_run_dtype")
def guidance_in_run_dtype(pipeline: Pipeline) -> Pipeline:
    """The branches are combined in their own dtype. Shows at reduced precision only."""

    def combine(negative: Tensor, positive: Tensor, scale: float) -> Tensor:
        return (negative + scale * (positive - negative)).float()

    return _guided(pipeline, combine)


@patch("unseen_guidance_branch_timestep")
def guidance_branch_timestep(pipeline: Pipeline) -> None:
    """The unconditional branch is told t - 1."""

    def change(arguments: Any, keywords: Any) -> tuple[Any, Any]:
        told = keywords["timestep"].clone()
        if len(told) == 2:
            told[0] -= 1
        return arguments, {**keywords, "timestep": told}

    on_input(module(pipeline, "transformer"), change)


@patch("unseen_loop_input_scaled")
def loop_input_scaled(pipeline: Pipeline) -> None:
    """The scheduler scales the transformer's input a little, as schedulers with sigmas do."""

    def scale_model_input(self: Any, sample: Tensor, *_arguments: Any, **_keywords: Any) -> Tensor:
        return sample * 0.995

    become(stack(pipeline).scheduler, scale_model_input=scale_model_input)


@patch("unseen_loop_step_from_cache")
def loop_step_from_cache(pipeline: Pipeline) -> None:
    """In step 3 of a native run, and no other, the transformer's last output is used again."""
    pipe = stack(pipeline)
    native = type(pipe).__call__
    state: dict[str, Any] = {"step": None, "last": None}

    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        state["step"] = 0
        try:
            return native(self, *arguments, **keywords)
        finally:
            state["step"] = None

    def change(_arguments: Any, _keywords: Any, output: Any) -> Any:
        if state["step"] is None:
            return output
        if state["step"] == 3:
            output = (state["last"],)
        state["step"], state["last"] = state["step"] + 1, output[0]
        return output

    on_call(module(pipeline, "transformer"), change)
    become(pipe, __call__=call)
