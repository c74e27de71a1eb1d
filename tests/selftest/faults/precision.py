"""Defects of precision: one part computes or keeps its weights in less than the run's dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from backends.base import Pipeline
from backends.worker.patches import patch
from tests.selftest.faults.planting import block, blocks, module, on_output, overwrite

Round = Callable[[Tensor], Tensor]


def bf16(x: Tensor) -> Tensor:
    """Rounded to bfloat16, in its own dtype."""
    return x.bfloat16().to(x.dtype)


def half(x: Tensor) -> Tensor:
    """Rounded to float16, in its own dtype."""
    return x.half().to(x.dtype)


def fp8(x: Tensor) -> Tensor:
    """Rounded to float8 (e4m3), in its own dtype."""
    return x.to(torch.float8_e4m3fn).to(x.dtype)


def int8(x: Tensor) -> Tensor:
    """Rounded to 8 bits with one scale a tensor."""
    step = x.abs().amax().float() / 127
    return ((x.float() / step).round() * step).to(x.dtype)


def _each(output: Any, change: Round) -> Any:
    if isinstance(output, Tensor):
        return change(output)
    return tuple(_each(part, change) for part in output)


def _computed(target: nn.Module, change: Round) -> None:
    """Round the result of every linear layer and norm in `target`."""
    for layer in target.modules():
        if isinstance(layer, nn.Linear | nn.LayerNorm):
            on_output(layer, lambda out: _each(out, change))


def _kept(target: nn.Module, change: Round, skip: tuple[str, ...] = ()) -> None:
    """Round the parameters of `target`, but for those whose name holds a word of `skip`."""
    for name, parameter in target.named_parameters():
        if not any(word in name for word in skip):
            overwrite(parameter, change(parameter))


@patch("precision_block_bf16")
def block_bf16(pipeline: Pipeline) -> None:
    """Block 3 computes in bfloat16."""
    _computed(block(pipeline, 3), bf16)


@patch("precision_block_half")
def block_half(pipeline: Pipeline) -> None:
    """Block 2 computes in float16."""
    _computed(block(pipeline, 2), half)


@patch("precision_residual_bf16")
def residual_bf16(pipeline: Pipeline) -> None:
    """The stream between the blocks is kept in bfloat16."""
    for each in blocks(pipeline):
        on_output(each, lambda out: _each(out, bf16))


@patch("precision_norms_bf16")
def norms_bf16(pipeline: Pipeline) -> None:
    """Layer norms give bfloat16."""
    for layer in module(pipeline, "transformer").modules():
        if isinstance(layer, nn.LayerNorm):
            on_output(layer, bf16)


@patch("precision_time_bf16")
def time_bf16(pipeline: Pipeline) -> None:
    """The timestep embedding is rounded to bfloat16."""
    on_output(module(pipeline, "transformer.time_proj"), bf16)


@patch("precision_output_half")
def output_half(pipeline: Pipeline) -> None:
    """The transformer's result passes through float16."""
    on_output(module(pipeline, "transformer"), lambda out: _each(out, half))


@patch("precision_all_fp8")
def all_fp8(pipeline: Pipeline) -> None:
    """All weights of the transformer in float8, norms and embeddings too."""
    _kept(module(pipeline, "transformer"), fp8)


@patch("precision_block_fp8")
def block_fp8(pipeline: Pipeline) -> None:
    """The weights of block 4 in float8."""
    _kept(block(pipeline, 4), fp8)


@patch("precision_patch_embed_fp8")
def patch_embed_fp8(pipeline: Pipeline) -> None:
    """The patch embedding, which every skip list names, in float8."""
    _kept(module(pipeline, "transformer.patch_embed"), fp8)


@patch("precision_modulation_int8")
def modulation_int8(pipeline: Pipeline) -> None:
    """Modulation weights in 8 bits with one scale a tensor."""
    for each in blocks(pipeline):
        for norm in (each.norm1, each.norm2):
            overwrite(norm.linear.weight, int8(norm.linear.weight))


@patch("precision_feed_forward_int8")
def feed_forward_int8(pipeline: Pipeline) -> None:
    """Block 1's feed-forward weights in 8 bits with one scale a tensor."""
    for layer in (block(pipeline, 1).ff.net[0].proj, block(pipeline, 1).ff.net[2]):
        overwrite(layer.weight, int8(layer.weight))


@patch("precision_text_int8")
def text_int8(pipeline: Pipeline) -> None:
    """T5's matrices in 8 bits with one scale a tensor."""
    for layer in module(pipeline, "text_encoder").modules():
        if isinstance(layer, nn.Linear):
            overwrite(layer.weight, int8(layer.weight))


@patch("precision_decoder_fp8")
def decoder_fp8(pipeline: Pipeline) -> None:
    """The decoder's weights in float8."""
    _kept(module(pipeline, "vae.decoder"), fp8, skip=("norm",))
