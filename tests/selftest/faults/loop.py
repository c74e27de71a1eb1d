"""Defects of Diffusers' own loop around the stages: every stage driven by hand is right.

They are planted where users hook into the loop, in `callback_on_step_end`, or around the call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backends.base import Pipeline
from backends.worker.patches import patch
from tests.selftest.faults.planting import become, stack

AfterStep = Callable[[int, dict[str, Tensor]], dict[str, Tensor]]
"""(step, tensors of the loop) -> those to go on with."""


def _after_step(
    pipeline: Pipeline, change: AfterStep, names: tuple[str, ...] = ("latents",)
) -> None:
    pipe = stack(pipeline)
    native = type(pipe).__call__

    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        def callback(_pipe: Any, step: int, _timestep: Any, given: dict[str, Tensor]) -> Any:
            return change(step, given)

        return native(
            self,
            *arguments,
            callback_on_step_end=callback,
            callback_on_step_end_tensor_inputs=list(names),
            **keywords,
        )

    become(pipe, __call__=call)


def _latents(name: str) -> Callable[[Callable[[int, Tensor], Tensor]], Any]:
    """Register a change of the latents between two steps; the step is the one just taken."""

    def register(change: Callable[[int, Tensor], Tensor]) -> Any:
        def plant(pipeline: Pipeline) -> None:
            _after_step(pipeline, lambda step, given: {"latents": change(step, given["latents"])})

        patch(name)(plant)
        return change

    return register


@_latents("loop_latents_bf16")
def latents_bf16(step: int, latents: Tensor) -> Tensor:
    """Latents are kept in bfloat16 between the steps of a float32 run."""
    return latents.bfloat16().to(latents.dtype)


@_latents("loop_latents_clamped")
def latents_clamped(step: int, latents: Tensor) -> Tensor:
    """Latents are clamped to [-3, 3] between steps."""
    return latents.clamp(-3, 3)


@_latents("loop_latents_normalised")
def latents_normalised(step: int, latents: Tensor) -> Tensor:
    """Latents are brought to unit variance after each of the first steps."""
    return latents / latents.std() if step < 4 else latents


@_latents("loop_one_step_rounded")
def one_step_rounded(step: int, latents: Tensor) -> Tensor:
    """After step 5, and no other, latents pass through float8."""
    return latents.to(torch.float8_e4m3fn).to(latents.dtype) if step == 5 else latents


@_latents("loop_frames_rolled")
def frames_rolled(step: int, latents: Tensor) -> Tensor:
    """After step 2 the latent frames are rotated by one, as by a wrong context window."""
    return latents.roll(1, dims=1) if step == 2 else latents


@_latents("loop_last_result_scaled")
def last_result_scaled(step: int, latents: Tensor) -> Tensor:
    """After the last step latents are rescaled once more."""
    return latents * 1.01 if step == 7 else latents


@_latents("loop_patch_mended")
def patch_mended(step: int, latents: Tensor) -> Tensor:
    """A corner of the first latent frame is overwritten with its mean after every step."""
    latents = latents.clone()
    corner = latents[:, 0, :, :2, :2]
    latents[:, 0, :, :2, :2] = corner.mean(dim=(-1, -2), keepdim=True)
    return latents


@patch("loop_prompt_lost")
def prompt_lost(pipeline: Pipeline) -> None:
    """From step 4 on the conditional branch gets the unconditional text."""

    def change(step: int, given: dict[str, Tensor]) -> dict[str, Tensor]:
        if step == 3:
            negative = given["prompt_embeds"].chunk(2)[0]
            given["prompt_embeds"] = torch.cat((negative, negative))
        return given

    _after_step(pipeline, change, ("latents", "prompt_embeds"))


@patch("loop_prompt_faded")
def prompt_faded(pipeline: Pipeline) -> None:
    """The text loses 1 % with every step: an in-place operation on a shared tensor."""

    def change(_step: int, given: dict[str, Tensor]) -> dict[str, Tensor]:
        given["prompt_embeds"] = given["prompt_embeds"] * 0.99
        return given

    _after_step(pipeline, change, ("latents", "prompt_embeds"))


@patch("loop_timestep_late")
def timestep_late(pipeline: Pipeline) -> None:
    """In the native loop the transformer is told the timestep of the step before."""
    pipe = stack(pipeline)
    native = type(pipe).__call__

    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        before: list[Tensor] = []

        def late(_module: Any, args: Any, kwargs: Any) -> Any:
            now = kwargs["timestep"]
            kwargs["timestep"] = before[0] if before else now
            before[:] = [now]
            return args, kwargs

        handle = self.transformer.register_forward_pre_hook(late, with_kwargs=True)
        try:
            return native(self, *arguments, **keywords)
        finally:
            handle.remove()

    become(pipe, __call__=call)


@patch("loop_noise_rescaled")
def noise_rescaled(pipeline: Pipeline) -> None:
    """The loop's own preparation scales the initial noise by 0.98; the stage does not."""
    pipe = stack(pipeline)
    native = type(pipe).prepare_latents

    def prepare(self: Any, *arguments: Any, **keywords: Any) -> Tensor:
        return native(self, *arguments, **keywords) * 0.98

    become(pipe, prepare_latents=prepare)
