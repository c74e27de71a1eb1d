"""Faults that people reported in public, planted around the model: loop, noise, frames."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backends.base import Pipeline
from backends.worker.patches import patch
from tests.selftest.faults.noise import AlteredTape
from tests.selftest.faults.planting import altered, become, module, stack

WINDOW, STRIDE = 3, 2
"""Latent frames of a context window, and from one window to the next."""


@patch("das25_image_latents_scaled_again")
def image_latents_scaled_again(pipeline: Pipeline) -> None:
    """The picture's latents are multiplied by the VAE's factor once more."""
    pipe = stack(pipeline)
    native = type(pipe).prepare_latents

    def prepare(self: Any, *given: Any, **named: Any) -> Any:
        latents, image = native(self, *given, **named)
        return latents, image * self.vae.config.scaling_factor

    become(pipe, prepare_latents=prepare)


@patch("owl135_levels_times_255_again")
def levels_times_255_again(pipeline: Pipeline) -> Pipeline:
    """Levels that are bytes already are multiplied by 255 once more, and wrap."""
    return altered(pipeline, frames=lambda video: ((video * 255).round() * 255 % 256) / 255)


@patch("cogvideo647_last_frame_missing")
def last_frame_missing(pipeline: Pipeline) -> Pipeline:
    """One frame fewer comes out than was asked for."""
    return altered(pipeline, frames=lambda video: video[:-1])


@patch("cogvideo123_noise_by_order")
def noise_by_order(pipeline: Pipeline) -> Pipeline:
    """One global generator: the n-th video of a process gets the n-th noise."""
    made = 0

    def tape(inner: Any) -> Any:
        nonlocal made
        number, made = made, made + 1
        return AlteredTape(
            inner, lambda place, drawn: place.other(drawn.shape, seed=number) if number else drawn
        )

    return altered(pipeline, tape=tape)


@patch("context_windows")
def windows(pipeline: Pipeline) -> None:
    """Overlapping windows of the clip, each with positions from 0, averaged where they overlap."""
    _windows(pipeline, averaged=True)


@patch("context_windows_overwritten")
def windows_overwritten(pipeline: Pipeline) -> None:
    """The same, but where windows overlap the last one is taken: a visible seam."""
    _windows(pipeline, averaged=False)


def _windows(pipeline: Pipeline, *, averaged: bool) -> None:
    transformer = module(pipeline, "transformer")
    native = type(transformer).forward

    def forward(self: Any, hidden_states: Tensor, **named: Any) -> Any:
        frames = hidden_states.shape[1]
        if frames <= WINDOW:
            return native(self, hidden_states=hidden_states, **named)
        rope = named.pop("image_rotary_emb", None)
        total = torch.zeros_like(hidden_states)
        count = hidden_states.new_zeros(1, frames, 1, 1, 1)
        for start in [*range(0, frames - WINDOW, STRIDE), frames - WINDOW]:
            place = slice(start, start + WINDOW)
            here = rope and tuple(t[: t.shape[0] // frames * WINDOW] for t in rope)
            out = native(
                self, hidden_states=hidden_states[:, place], image_rotary_emb=here, **named
            )[0]
            total[:, place] = total[:, place] + out if averaged else out
            count[:, place] = count[:, place] + 1 if averaged else 1
        return (total / count,)

    become(transformer, forward=forward)


@patch("fastercache13_wrong_half")
def wrong_half(pipeline: Pipeline) -> None:
    """Every second step takes the unconditional half of the batch for the conditional one."""
    _unconditional(pipeline, lambda t: 100 < t < 700 and int(t) // 100 % 2 == 1)


@patch("fastercache13_inside_the_option")
def wrong_half_inside_the_option(pipeline: Pipeline) -> None:
    """The same from the second step on, but only while the transformer's cache is enabled."""
    if getattr(stack(pipeline).transformer, "is_cache_enabled", False):
        _unconditional(pipeline, lambda t: t < 800)


def _unconditional(pipeline: Pipeline, struck: Any) -> None:
    transformer = stack(pipeline).transformer
    native = type(transformer).forward

    def forward(self: Any, hidden_states: Tensor, **named: Any) -> Any:
        out = native(self, hidden_states=hidden_states, **named)[0]
        if len(out) == 2 and struck(float(named["timestep"].flatten()[0])):
            out = torch.cat((out[:1], out[:1]))
        return (out,)

    become(transformer, forward=forward)


@patch("swarmui1373_source_lost")
def source_lost(pipeline: Pipeline) -> None:
    """The source clip's latents are no longer linked, and zeros are taken."""
    vae = stack(pipeline).vae
    native = type(vae)._encode
    become(vae, _encode=lambda self, x: torch.zeros_like(native(self, x)))


@patch("tiled_half_black")
def tiled_half_black(pipeline: Pipeline) -> None:
    """The right half of every frame is black, but only where the VAE decodes in tiles."""
    vae = stack(pipeline).vae
    native = type(vae).tiled_decode

    def tiled(self: Any, z: Tensor, return_dict: bool = True) -> Any:
        out = native(self, z, return_dict=return_dict)
        video = out.sample if return_dict else out[0]
        video[..., video.shape[-1] // 2 :] = -1
        return out

    if vae.use_tiling:
        become(vae, tiled_decode=tiled)
