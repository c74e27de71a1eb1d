"""Faults that sit where an option is set, as a plugin of the trust tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backends.base import Pipeline
from backends.worker.patches import patch
from tests.selftest.faults.planting import become, blocks, on_output, stack


def _decoded(pipeline: Pipeline, change: Any) -> None:
    pipe = stack(pipeline)
    native = type(pipe).decode_latents

    def decode_latents(self: Any, latents: Tensor) -> Tensor:
        return change(native(self, latents))

    become(pipe, decode_latents=decode_latents)


@patch("frames_brighter")
def frames_brighter(pipeline: Pipeline) -> None:
    """Decoded values times 1.015."""
    _decoded(pipeline, lambda frames: frames * 1.015)


@patch("fused_too_large")
def fused_too_large(pipeline: Pipeline) -> None:
    """The fused projection of block 1 gives half as much again."""
    on_output(blocks(pipeline)[1].attn1.to_qkv, lambda out: out * 1.5)


@patch("guidance_lost_with_the_cache")
def guidance_lost_with_the_cache(pipeline: Pipeline) -> None:
    """Both branches are the unconditional one: what a cache does that hands out one half twice."""
    halves = stack(pipeline).transformer
    on_output(halves, lambda out: (out[0][:1].expand_as(out[0]).contiguous(),))


@patch("keys_too_large")
def keys_too_large(pipeline: Pipeline) -> None:
    """Block 2's keys times 1.5, which the norm behind them takes back."""
    keys = blocks(pipeline)[2].attn1.to_k
    with torch.no_grad():
        keys.weight.mul_(1.5)
        keys.bias.mul_(1.5)
