"""Defects in SAT around its transformer: text, schedule, solver, loop, decoder, state."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch as swapped

import torch
from torch import Tensor

from backends.base import Pipeline
from backends.worker.patches import patch
from tests.selftest.faults.planting import (
    altered,
    become,
    exchange,
    module,
    on_input,
    on_output,
    overwrite,
    stack,
)


def _text(pipeline: Pipeline, change: Callable[[Tensor], Tensor]) -> None:
    """Let `change` replace the conditional embedding."""
    on_output(stack(pipeline).conditioner, change)


@patch("sat_text_half")
def text_half(pipeline: Pipeline) -> None:
    """The embedding passes through float16."""
    _text(pipeline, lambda found: found.half().to(found.dtype))


@patch("sat_text_scaled")
def text_scaled(pipeline: Pipeline) -> None:
    """The embedding is 1 % too large."""
    _text(pipeline, lambda found: found * 1.01)


@patch("sat_text_cut")
def text_cut(pipeline: Pipeline) -> None:
    """Everything after the sixth token is dropped without a word."""

    def act(arguments: Any, keywords: Any) -> tuple[Any, Any]:
        ids = keywords["input_ids"].clone()
        ids[:, 6:] = 0
        return arguments, {**keywords, "input_ids": ids}

    on_input(module(pipeline, "text_encoder"), act)


@patch("sat_unconditional_encoded")
def unconditional_encoded(pipeline: Pipeline) -> None:
    """The unconditional embedding is T5's of the empty prompt, not zeros."""
    engine = stack(pipeline)
    native = type(engine).encode_text

    def encode(self: Any, prompt: str) -> tuple[Tensor, Tensor]:
        return native(self, prompt)[0], native(self, "")[0]

    become(engine, encode_text=encode)


def _schedule(pipeline: Pipeline, **changes: Any) -> None:
    """Change the sampler's schedule and the denoiser's."""
    engine = stack(pipeline)
    sampler = engine.config.sampler
    engine.config = replace(
        engine.config,
        sampler=replace(sampler, schedule=replace(sampler.schedule, **changes)),
        denoiser_schedule=replace(engine.config.denoiser_schedule, **changes),
    )
    engine.denoiser._schedule = engine.config.denoiser_schedule


@patch("sat_schedule_shift_of_5b")
def schedule_shift_of_5b(pipeline: Pipeline) -> None:
    """The 5B's SNR shift in the 2B."""
    _schedule(pipeline, shift_scale=1.0)


@patch("sat_schedule_shift_of_2b")
def schedule_shift_of_2b(pipeline: Pipeline) -> None:
    """The 2B's SNR shift in the 5B."""
    _schedule(pipeline, shift_scale=3.0)


@patch("sat_schedule_beta_end")
def schedule_beta_end(pipeline: Pipeline) -> None:
    """Last beta 0.02."""
    _schedule(pipeline, linear_end=0.02)


@patch("sat_schedule_denoiser_only")
def schedule_denoiser_only(pipeline: Pipeline) -> None:
    """The denoiser rounds to a table with another SNR shift than the sampler's."""
    engine = stack(pipeline)
    engine.denoiser._schedule = replace(engine.config.denoiser_schedule, shift_scale=1.5)


def _solver(
    pipeline: Pipeline, wrap: Callable[[Callable[..., Tensor]], Callable[..., Tensor]]
) -> Pipeline:
    """Let `wrap(step)` stand for the step of every solver that this pipeline makes."""
    from backends.sat import engine, run

    native = run.make_solver

    def make(kind: Any, table: Any) -> Any:
        made = native(kind, table)
        made.step = wrap(made.step)
        return made

    @contextmanager
    def within() -> Any:
        with ExitStack() as both:
            for place in (engine, run):
                both.enter_context(swapped.object(place, "make_solver", make))
            yield

    return altered(pipeline, within=within)


@patch("sat_solver_first_order")
def solver_first_order(pipeline: Pipeline) -> Pipeline:
    """DPM forgets the clean sample of the step before."""

    def wrap(step: Callable[..., Tensor]) -> Callable[..., Tensor]:
        solver: Any = step.__self__  # type: ignore[attr-defined]

        def forgetful(latents: Tensor, clean: Tensor, index: int, draw: Any) -> Tensor:
            if index > 0:
                solver._previous = (index - 1, clean)
            return step(latents, clean, index, draw)

        return forgetful

    return _solver(pipeline, wrap)


@patch("sat_solver_clean_clipped")
def solver_clean_clipped(pipeline: Pipeline) -> Pipeline:
    """The clean sample is clipped to [-1, 1]."""

    def wrap(step: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def clipped(latents: Tensor, clean: Tensor, index: int, draw: Any) -> Tensor:
            return step(latents, clean.clamp(-1, 1), index, draw)

        return clipped

    return _solver(pipeline, wrap)


@patch("sat_solver_noise_weak")
def solver_noise_weak(pipeline: Pipeline) -> Pipeline:
    """Step noise 2 % too weak."""

    def wrap(step: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def quiet(latents: Tensor, clean: Tensor, index: int, draw: Any) -> Tensor:
            def drawn(like: Tensor) -> Tensor:
                return draw(like) * 0.98

            return step(latents, clean, index, drawn)

        return quiet

    return _solver(pipeline, wrap)


@patch("sat_solver_middle_step")
def solver_middle_step(pipeline: Pipeline) -> Pipeline:
    """Step 4's result, and no other, 1 % too large."""

    def wrap(step: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def strong(latents: Tensor, clean: Tensor, index: int, draw: Any) -> Tensor:
            return step(latents, clean, index, draw) * (1.01 if index == 4 else 1.0)

        return strong

    return _solver(pipeline, wrap)


@patch("sat_loop_latents_bf16")
def loop_latents_bf16(pipeline: Pipeline) -> None:
    """The engine's loop keeps latents in bfloat16; the stages do not."""
    engine = stack(pipeline)
    native, native_denoise = type(engine).sample, type(engine).denoise
    looping = [False]

    def denoise(self: Any, plan: Any, latents: Tensor, index: int) -> Any:
        if looping[0]:
            latents.copy_(latents.bfloat16().float())
        return native_denoise(self, plan, latents, index)

    def sample(self: Any, *arguments: Any) -> Tensor:
        looping[0] = True
        try:
            return native(self, *arguments)
        finally:
            looping[0] = False

    become(engine, sample=sample, denoise=denoise)


@patch("sat_loop_result_scaled")
def loop_result_scaled(pipeline: Pipeline) -> None:
    """The loop's result is scaled by 0.98 before it is decoded."""
    engine = stack(pipeline)
    native = type(engine).sample

    def sample(self: Any, *arguments: Any) -> Tensor:
        return native(self, *arguments) * 0.98

    become(engine, sample=sample)


def _decode(pipeline: Pipeline, change: Callable[[Tensor], Tensor]) -> None:
    """Let `change` replace the latents (B, z, t, h, w) that the VAE decodes."""
    vae = stack(pipeline).first_stage_model
    native = type(vae).decode

    def decode(self: Any, latents: Tensor, *rest: Any) -> Tensor:
        return native(self, change(latents), *rest)

    become(vae, decode=decode)


@patch("sat_scale_factor")
def scale_factor(pipeline: Pipeline) -> None:
    """The 5B's latents unscaled with the 2B's factor."""
    engine = stack(pipeline)
    engine.config = replace(engine.config, scale_factor=1.15258426)


@patch("sat_unscaled")
def unscaled(pipeline: Pipeline) -> None:
    """Latents are decoded as they are."""
    factor = float(stack(pipeline).config.scale_factor)
    _decode(pipeline, lambda latents: latents * factor)


@patch("sat_decoder_frames_reversed")
def decoder_frames_reversed(pipeline: Pipeline) -> None:
    """Latent frames decoded last to first."""
    _decode(pipeline, lambda latents: latents.flip(2))


@patch("sat_decoder_cache_dropped")
def decoder_cache_dropped(pipeline: Pipeline) -> None:
    """Every piece is decoded as if a video began with it."""
    decoder = stack(pipeline).first_stage_model.decoder
    native = type(decoder).forward

    def forward(self: Any, latent: Tensor, keep: bool, lone_first: bool) -> Tensor:
        return native(self, latent, False, lone_first)

    become(decoder, forward=forward)


@patch("sat_decoder_spatial_norm_swapped")
def decoder_spatial_norm_swapped(pipeline: Pipeline) -> None:
    """Scale and shift of one spatial norm exchanged."""
    norm = stack(pipeline).first_stage_model.decoder.mid.block_2.norm1
    for kind in ("weight", "bias"):
        exchange(getattr(norm.conv_y.conv, kind), getattr(norm.conv_b.conv, kind))


@patch("sat_decoder_bias_lost")
def decoder_bias_lost(pipeline: Pipeline) -> None:
    """The bias of the decoder's last convolution was not loaded."""
    bias = stack(pipeline).first_stage_model.decoder.conv_out.conv.bias
    overwrite(bias, torch.zeros_like(bias))


@patch("sat_state_decoder_cache_kept")
def state_decoder_cache_kept(pipeline: Pipeline) -> None:
    """The cache of the last piece is not cleared: the next video goes on from there."""
    decoder = stack(pipeline).first_stage_model.decoder
    native = type(decoder).forward

    def forward(self: Any, latent: Tensor, keep: bool, lone_first: bool) -> Tensor:
        return native(self, latent, True, lone_first)

    become(decoder, forward=forward)


@patch("sat_state_text_cached")
def state_text_cached(pipeline: Pipeline) -> None:
    """The first prompt's embedding is used for every later prompt."""
    engine = stack(pipeline)
    native = type(engine).encode_text
    kept: list[tuple[Tensor, Tensor]] = []

    def encode(self: Any, prompt: str) -> tuple[Tensor, Tensor]:
        if not kept:
            kept.append(native(self, prompt))
        return kept[0]

    become(engine, encode_text=encode)
