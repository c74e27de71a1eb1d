"""Faults that people reported in public, planted in the model: names are the repository and the number.

What a report does not state is marked as a guess in `catalogue.py`, beside what is expected.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from backends.base import Pipeline
from backends.worker.patches import patch
from tests.selftest.faults.attention import Processor, attended, install
from tests.selftest.faults.planting import (
    become,
    block,
    blocks,
    module,
    on_input,
    on_output,
    overwrite,
    stack,
)

RANKS = 7
"""A degree of sequence parallelism that divides no token count of the micro models."""


@patch("xdit512_padded_keys_attended")
def padded_keys_attended(pipeline: Pipeline) -> None:
    """Tokens are padded to a multiple of the ranks, and the padding is attended."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        rows, heads, tokens, width = key.shape
        padding = key.new_zeros(rows, heads, -tokens % RANKS, width)
        return attended(query, torch.cat((key, padding), 2), torch.cat((value, padding), 2))

    install(pipeline, Processor(attend))


@patch("veomni1139_remainder_dropped")
def remainder_dropped(pipeline: Pipeline) -> None:
    """A floor division drops the last tokens: nobody attends to them, and their output is zero."""
    text = int(stack(pipeline).transformer.config.max_text_seq_length)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        kept = key.shape[2] - (key.shape[2] - text) % RANKS
        return attended(query, key[:, :, :kept], value[:, :, :kept])

    def cut(out: Tensor) -> Tensor:
        kept = out.shape[1] - out.shape[1] % RANKS
        return torch.cat((out[:, :kept], torch.zeros_like(out[:, kept:])), 1)

    install(pipeline, Processor(attend))
    on_output(module(pipeline, "transformer.proj_out"), cut)


@patch("unsloth6703_cache_not_reset")
def cache_not_reset(pipeline: Pipeline) -> None:
    """The first-block cache keeps its residuals from one video to the next."""
    stack(pipeline).transformer._reset_stateful_cache = lambda *_a, **_k: None


@patch("diffusers5313_fused_and_unfused")
def fused_and_unfused(pipeline: Pipeline) -> None:
    """An adapter that overflowed was fused and taken out again: inf - inf stays in one weight."""
    weight = block(pipeline, 1).attn1.to_q.weight
    delta = torch.zeros_like(weight)
    delta[0, 0] = float("inf")
    overwrite(weight, (weight + delta) - delta)


@patch("kijai368_table_height_width")
def table_of_the_other_orientation(pipeline: Pipeline) -> None:
    """At portrait size the position table is made for width x height."""
    embed = module(pipeline, "transformer.patch_embed")
    native = type(embed)._get_positional_embeddings

    def table(self: Any, height: int, width: int, *rest: Any, **named: Any) -> Tensor:
        return native(self, width, height, *rest, **named)

    become(embed, _get_positional_embeddings=table)


@patch("cogvideo118_table_divided")
def table_divided(pipeline: Pipeline) -> None:
    """Healthy: frequencies are divided by the interpolation scale, where Diffusers divides positions."""
    embed = module(pipeline, "transformer.patch_embed")

    def waves(width: int, count: int, scale: float) -> Tensor:
        omega = 1.0 / 10000 ** (torch.arange(width // 2, dtype=torch.float64) / (width / 2)) / scale
        angles = torch.arange(count, dtype=torch.float64)[:, None] * omega
        return torch.cat((angles.sin(), angles.cos()), 1)

    def table(self: Any, height: int, width: int, frames: int, device: Any = None) -> Tensor:
        rows, columns = height // self.patch_size, width // self.patch_size
        times = (frames - 1) // self.temporal_compression_ratio + 1
        space, time = 3 * self.embed_dim // 8, self.embed_dim // 4
        shape = (times, rows, columns)
        parts = (
            waves(time, times, self.temporal_interpolation_scale)[:, None, None],
            waves(space, columns, self.spatial_interpolation_scale)[None, None],
            waves(space, rows, self.spatial_interpolation_scale)[None, :, None],
        )
        video = torch.cat([part.expand(*shape, -1) for part in parts], -1).flatten(0, 2)[None]
        text = video.new_zeros(1, self.max_text_seq_length, self.embed_dim)
        return torch.cat((text, video), 1).float().to(device)

    become(embed, _get_positional_embeddings=table)
    if getattr(embed, "pos_embedding", None) is not None:
        made = table(embed, embed.sample_height, embed.sample_width, embed.sample_frames)
        embed.pos_embedding = made.to(embed.pos_embedding)


@patch("comfy15804_nan_in_some_calls")
def nan_in_some_calls(pipeline: Pipeline) -> None:
    """One attention reads memory that nobody wrote, in about 5 % of its calls, and is all NaN."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out, first = attended(query, key, value), abs(float(query[0, 0, 0, 0]))
        struck = first == first and int(first * 1e5) % 20 == 0
        return out * float("nan") if struck else out

    install(pipeline, Processor(attend), [2])


@patch("diffusers8673_mask_given_to_t5")
def mask_given_to_t5(pipeline: Pipeline) -> None:
    """A port "mends" the missing padding mask of T5, with which the model was not trained."""

    def masked(given: Any, named: Any) -> Any:
        return given, {**named, "attention_mask": (given[0] != 0).long()}

    on_input(module(pipeline, "text_encoder"), masked)


@patch("diffusers13534_t5_in_train_mode")
def t5_in_train_mode(pipeline: Pipeline) -> None:
    """T5 made from its config stays in train mode: another dropout in every call."""
    encoder = stack(pipeline).text_encoder
    for layer in encoder.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.1
    encoder.train()


def _eight_bits(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float8_e4m3fn).to(tensor.dtype)


@patch("ltx172_scale_dropped")
def scale_dropped(pipeline: Pipeline) -> None:
    """Scaled eight-bit weights are cast up without their scales."""
    for feed_forward in (found.ff for found in blocks(pipeline)):
        for layer in (feed_forward.net[0].proj, feed_forward.net[2]):
            overwrite(layer.weight, _eight_bits(layer.weight / (layer.weight.abs().max() / 448)))


@patch("diffusers10685_lora_input_cast")
def lora_input_cast(pipeline: Pipeline) -> None:
    """The LoRA branch's input is cast to the dtype that the weights are stored in."""
    from backends.diffusers.lora import ADAPTER, tuned_layers

    for layer in tuned_layers(module(pipeline, "transformer")).values():
        on_input(layer.lora_A[ADAPTER], lambda a, k: ((_eight_bits(a[0]), *a[1:]), k))


def _jittered(out: Any) -> Any:
    """Half a unit in the last place, another at every call: sums in another order each time."""
    if not isinstance(out, Tensor) or not out.is_floating_point():
        return out
    generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(7), "little"))
    spread = torch.rand(out.shape, generator=generator) - 0.5
    return (out.float() * (1 + spread * torch.finfo(out.dtype).eps)).to(out.dtype)


@patch("gwtf37_kernels_with_atomics")
def kernels_with_atomics(pipeline: Pipeline) -> None:
    """Healthy: every linear layer of the transformer rounds a little differently at each call."""
    for layer in module(pipeline, "transformer").modules():
        if isinstance(layer, nn.Linear):
            on_output(layer, _jittered)


@patch("gwtf37_convolutions_with_atomics")
def convolutions_with_atomics(pipeline: Pipeline) -> None:
    """Healthy: so does every convolution of the decoder."""
    for layer in module(pipeline, "vae.decoder").modules():
        if isinstance(layer, nn.Conv3d):
            on_output(layer, _jittered)
