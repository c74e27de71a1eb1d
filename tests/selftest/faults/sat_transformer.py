"""Defects in SAT's transformer: joint projections, twelve-fold modulation, mixins, positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from backends.base import Pipeline
from backends.worker.patches import patch
from tests.selftest.faults.planting import (
    become,
    block,
    on_call,
    on_output,
    overwrite,
    stack,
    unchanged,
)


def _network(pipeline: Pipeline) -> Any:
    return stack(pipeline).diffusion_model


def _layers(pipeline: Pipeline) -> Any:
    """SAT's own layers, with `attention` and `mlp`."""
    return _network(pipeline).transformer.layers


def _mixin(pipeline: Pipeline, name: str) -> Any:
    return _network(pipeline).mixins[name]


def _joint(layer: Any, order: tuple[int, int, int]) -> None:
    """Deal the thirds of a joint query, key, value projection out in another order."""
    linear = layer.attention.query_key_value
    for value in (linear.weight, linear.bias):
        parts = value.chunk(3)
        overwrite(value, torch.cat([parts[i] for i in order]).clone())


def _zero(value: Tensor) -> None:
    overwrite(value, torch.zeros_like(value))


@patch("sat_query_key_swapped")
def query_key_swapped(pipeline: Pipeline) -> None:
    """The joint projection is read as key, query, value."""
    for layer in _layers(pipeline):
        _joint(layer, (1, 0, 2))


@patch("sat_key_value_swapped_in_block_2")
def key_value_swapped_in_block_2(pipeline: Pipeline) -> None:
    """One block's joint projection is read as query, value, key."""
    _joint(_layers(pipeline)[2], (0, 2, 1))


def _modulation(layer: Any, order: tuple[int, ...]) -> None:
    linear = layer[1]
    for value in (linear.weight, linear.bias):
        parts = value.chunk(12)
        overwrite(value, torch.cat([parts[i] for i in order]).clone())


@patch("sat_modulation_streams_swapped")
def modulation_streams_swapped(pipeline: Pipeline) -> None:
    """The twelve vectors hold the text's first."""
    for layer in _mixin(pipeline, "adaln_layer").adaLN_modulations:
        _modulation(layer, (6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5))


@patch("sat_modulation_as_two_norms")
def modulation_as_two_norms(pipeline: Pipeline) -> None:
    """The twelve vectors lie as Diffusers' two norms have them."""
    for layer in _mixin(pipeline, "adaln_layer").adaLN_modulations:
        _modulation(layer, (0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11))


@patch("sat_shift_scale_swapped_in_block_4")
def shift_scale_swapped_in_block_4(pipeline: Pipeline) -> None:
    """Block 4's feed-forward takes scale for shift."""
    _modulation(
        _mixin(pipeline, "adaln_layer").adaLN_modulations[4], (0, 1, 2, 4, 3, 5, 6, 7, 8, 9, 10, 11)
    )


@patch("sat_query_norm_of_other_block")
def query_norm_of_other_block(pipeline: Pipeline) -> None:
    """Block 3 normalises its queries with block 2's norm: an index off by one."""
    norms = _mixin(pipeline, "adaln_layer").query_layernorm_list
    for kind in ("weight", "bias"):
        overwrite(getattr(norms[3], kind), getattr(norms[2], kind).clone())


@patch("sat_key_norm_missing_in_block_1")
def key_norm_missing_in_block_1(pipeline: Pipeline) -> None:
    """Block 1 does not normalise its keys."""
    become(_mixin(pipeline, "adaln_layer").key_layernorm_list[1], forward=unchanged)


@patch("sat_dense_bias_lost")
def dense_bias_lost(pipeline: Pipeline) -> None:
    """The bias of block 2's attention output was not loaded."""
    _zero(_layers(pipeline)[2].attention.dense.bias)


@patch("sat_value_bias_lost")
def value_bias_lost(pipeline: Pipeline) -> None:
    """The last third of block 0's joint bias was not loaded."""
    bias = _layers(pipeline)[0].attention.query_key_value.bias
    with torch.no_grad():
        bias[2 * len(bias) // 3 :] = 0


@patch("sat_head_lost")
def head_lost(pipeline: Pipeline) -> None:
    """One head of block 5 contributes nothing."""
    weight = _layers(pipeline)[5].attention.dense.weight
    with torch.no_grad():
        weight[:, : weight.shape[1] // 4] = 0


@patch("sat_layers_exchanged")
def layers_exchanged(pipeline: Pipeline) -> None:
    """The feed-forwards of layers 1 and 2 have changed places."""
    layers = _layers(pipeline)
    first, second = layers[1].mlp, layers[2].mlp
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        kept = a.detach().clone()
        overwrite(a, b)
        overwrite(b, kept)


@patch("sat_activation_exact")
def activation_exact(pipeline: Pipeline) -> None:
    """Exact GELU in place of its tanh form."""
    for layer in _layers(pipeline):
        layer.mlp.activation_func = nn.GELU()


@patch("sat_norm_epsilon")
def norm_epsilon(pipeline: Pipeline) -> None:
    """The blocks' norms have eps 1e-3."""
    for layer in _layers(pipeline):
        layer.input_layernorm.eps = layer.post_attention_layernorm.eps = 1e-3


@patch("sat_final_norm_epsilon")
def final_norm_epsilon(pipeline: Pipeline) -> None:
    """The last norm has eps 1e-2."""
    _mixin(pipeline, "final_layer").norm_final.eps = 1e-2


@patch("sat_final_shift_scale_swapped")
def final_shift_scale_swapped(pipeline: Pipeline) -> None:
    """Shift and scale of the last norm exchanged."""
    linear = _mixin(pipeline, "final_layer").adaLN_modulation[1]
    for value in (linear.weight, linear.bias):
        overwrite(value, torch.cat(value.chunk(2)[::-1]).clone())


@patch("sat_unpatch_transposed")
def unpatch_transposed(pipeline: Pipeline) -> None:
    """Rows and columns of a patch exchanged on the way out."""
    linear = _mixin(pipeline, "final_layer").linear
    for value in (linear.weight, linear.bias):
        parts = value.view(-1, 2, 2, *value.shape[1:])
        overwrite(value, parts.transpose(1, 2).reshape(value.shape).clone())


@patch("sat_patch_bias_lost")
def patch_bias_lost(pipeline: Pipeline) -> None:
    """The bias of the patch embedding was not loaded."""
    _zero(_mixin(pipeline, "patch_embed").proj.bias)


@patch("sat_time_sine_first")
def time_sine_first(pipeline: Pipeline) -> None:
    """Sines before cosines in the timestep embedding: the first layer's columns exchanged."""
    weight = _network(pipeline).time_embed[0].weight
    overwrite(weight, torch.cat(weight.chunk(2, dim=1)[::-1], dim=1).clone())


@patch("sat_gate_dropped")
def gate_dropped(pipeline: Pipeline) -> None:
    """Block 3 adds its attention to the video without a gate."""

    def ungated(output: Tensor) -> Tensor:
        parts = list(output.chunk(12, dim=1))
        parts[2] = torch.ones_like(parts[2])
        return torch.cat(parts, dim=1)

    on_output(_mixin(pipeline, "adaln_layer").adaLN_modulations[3], ungated)


@patch("sat_residual_scaled")
def residual_scaled(pipeline: Pipeline) -> None:
    """Block 2's video stream 2 % too large."""
    on_output(block(pipeline, 2), lambda out: (out[0] * 1.02, out[1]))


@patch("sat_block_skipped")
def block_skipped(pipeline: Pipeline) -> None:
    """Block 4 returns what it was given."""
    on_call(block(pipeline, 4), lambda args, kwargs, out: tuple(args[:2]))


@patch("sat_block_bf16")
def block_bf16(pipeline: Pipeline) -> None:
    """Block 1 gives bfloat16 in a float32 run."""
    on_output(block(pipeline, 1), lambda out: tuple(x.bfloat16().to(x.dtype) for x in out))


@patch("sat_feed_forward_relu")
def feed_forward_relu(pipeline: Pipeline) -> None:
    """ReLU in layer 0."""
    _layers(pipeline)[0].mlp.activation_func = nn.ReLU()


def _tables(pipeline: Pipeline, change: Callable[[Tensor], Tensor]) -> None:
    positions = _mixin(pipeline, "pos_embed")
    for name in ("freqs_cos", "freqs_sin"):
        overwrite(positions.get_buffer(name), change(positions.get_buffer(name)).clone())


def _grid(table: Tensor) -> Tensor:
    """(tokens, d) -> (frames, 4, 4, d)."""
    return table.view(-1, 4, 4, table.shape[-1])


@patch("sat_rope_axes_swapped")
def rope_axes_swapped(pipeline: Pipeline) -> None:
    """Rotary tables in width, height order."""
    _tables(pipeline, lambda table: _grid(table).transpose(1, 2).reshape(table.shape))


@patch("sat_rope_frame_late")
def rope_frame_late(pipeline: Pipeline) -> None:
    """The third latent frame has the second one's rotation."""

    def change(table: Tensor) -> Tensor:
        grid = _grid(table).clone()
        grid[2] = grid[1]
        return grid.reshape(table.shape)

    _tables(pipeline, change)


@patch("sat_rope_bf16")
def rope_bf16(pipeline: Pipeline) -> None:
    """Rotary tables from a bfloat16 checkpoint in a float32 run."""
    _tables(pipeline, lambda table: table.bfloat16().to(table.dtype))


@patch("sat_rope_half_split")
def rope_half_split(pipeline: Pipeline) -> None:
    """Channels are paired half and half."""

    def rotated(self: Any, x: Tensor, text_length: int, grid: Any) -> Tensor:
        text, video = x[:, :, :text_length], x[:, :, text_length:]
        cos, sin = (table.to(x.dtype) for table in self.tables(grid))
        first, second = video.chunk(2, dim=-1)
        turned = video * cos + torch.cat((-second, first), dim=-1) * sin
        return torch.cat((text, turned), dim=2)

    become(_mixin(pipeline, "pos_embed"), rotated=rotated)


@patch("sat_table_shifted")
def table_shifted(pipeline: Pipeline) -> None:
    """The sin-cos table one token late."""
    table = _mixin(pipeline, "pos_embed").pos_embedding
    overwrite(table, table.roll(1, dims=1).clone())


@patch("sat_table_missing")
def table_missing(pipeline: Pipeline) -> None:
    """The sin-cos table is zero."""
    _zero(_mixin(pipeline, "pos_embed").pos_embedding)
