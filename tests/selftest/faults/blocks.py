"""Defects in the Diffusers transformer around its attention: modulation, gates, norms, time, steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backends.base import Pipeline
from backends.worker.patches import patch
from tests.selftest.faults.planting import (
    become,
    block,
    blocks,
    module,
    on_call,
    on_input,
    on_output,
    unchanged,
)

Modulate = Callable[[Tensor, Tensor, Tensor], Tensor]


def _modulation(norm: Any, modulate: Modulate) -> None:
    """Let `modulate(x, shift, scale)` stand for norm(x) (1 + scale) + shift on the video stream."""
    native: Callable[..., Any] = type(norm).forward

    def forward(self: Any, hidden: Tensor, text: Tensor, temb: Tensor) -> Any:
        _, own_text, gate, text_gate = native(self, hidden, text, temb)
        shift, scale = self.linear(self.silu(temb)).chunk(6, dim=1)[:2]
        return modulate(hidden, shift[:, None], scale[:, None]), own_text, gate, text_gate

    become(norm, forward=forward)


@patch("modulation_shift_scale_swapped")
def shift_scale_swapped(pipeline: Pipeline) -> None:
    """Block 3 takes scale for shift and shift for scale."""
    norm = block(pipeline, 3).norm1
    _modulation(norm, lambda x, shift, scale: norm.norm(x) * (1 + shift) + scale)


@patch("modulation_without_one")
def without_one(pipeline: Pipeline) -> None:
    """Block 2 multiplies by the scale, not by one plus it."""
    norm = block(pipeline, 2).norm1
    _modulation(norm, lambda x, shift, scale: norm.norm(x) * scale + shift)


@patch("modulation_before_norm")
def before_norm(pipeline: Pipeline) -> None:
    """Block 4's feed-forward norm comes after the modulation."""
    norm = block(pipeline, 4).norm2
    _modulation(norm, lambda x, shift, scale: norm.norm(x * (1 + scale) + shift))


@patch("norm_skipped")
def norm_skipped(pipeline: Pipeline) -> None:
    """Block 1's feed-forward gets its input without a norm."""
    _modulation(block(pipeline, 1).norm2, lambda x, shift, scale: x * (1 + scale) + shift)


@patch("modulation_without_silu")
def without_silu(pipeline: Pipeline) -> None:
    """The activation before the modulations is missing."""
    for each in blocks(pipeline):
        each.norm1.silu = nn.Identity()
        each.norm2.silu = nn.Identity()


@patch("gate_dropped")
def gate_dropped(pipeline: Pipeline) -> None:
    """Block 2 adds its attention without a gate."""
    on_output(block(pipeline, 2).norm1, lambda out: (*out[:2], torch.ones_like(out[2]), out[3]))


@patch("text_gate_dropped")
def text_gate_dropped(pipeline: Pipeline) -> None:
    """Block 1 adds the text's attention without a gate."""
    on_output(block(pipeline, 1).norm1, lambda out: (*out[:3], torch.ones_like(out[3])))


@patch("gates_of_streams_swapped")
def gates_of_streams_swapped(pipeline: Pipeline) -> None:
    """Block 3's feed-forward gates of video and text exchanged."""
    on_output(block(pipeline, 3).norm2, lambda out: (*out[:2], out[3], out[2]))


@patch("residual_scaled")
def residual_scaled(pipeline: Pipeline) -> None:
    """Block 1's video stream 2 % too small."""
    on_output(block(pipeline, 1), lambda out: (out[0] * 0.98, out[1]))


def _given(arguments: Any, keywords: Any) -> tuple[Tensor, Tensor]:
    """Video and text tokens that a block was called with."""
    names = ("hidden_states", "encoder_hidden_states")
    values = dict(zip(names, arguments, strict=False)) | keywords
    return values[names[0]], values[names[1]]


@patch("text_stream_stale")
def text_stream_stale(pipeline: Pipeline) -> None:
    """Block 4 hands on the text that it was given."""
    on_call(block(pipeline, 4), lambda args, kwargs, out: (out[0], _given(args, kwargs)[1]))


@patch("block_skipped")
def block_skipped(pipeline: Pipeline) -> None:
    """The last block returns what it was given."""
    on_call(block(pipeline, -1), lambda args, kwargs, _: _given(args, kwargs))


@patch("block_twice")
def block_twice(pipeline: Pipeline) -> None:
    """Block 2 is run twice."""
    target = block(pipeline, 2)

    def change(arguments: Any, keywords: Any, output: Any) -> Any:
        names = ("hidden_states", "encoder_hidden_states", "temb", "image_rotary_emb")
        given = dict(zip(names, arguments, strict=False)) | keywords
        given |= {"hidden_states": output[0], "encoder_hidden_states": output[1]}
        return target.forward(**given)

    on_call(target, change)


@patch("norm_epsilon")
def norm_epsilon(pipeline: Pipeline) -> None:
    """The blocks' norms have an eps a hundred times too large."""
    for each in blocks(pipeline):
        each.norm1.norm.eps = each.norm2.norm.eps = 1e-3


@patch("final_norm_skipped")
def final_norm_skipped(pipeline: Pipeline) -> None:
    """The norm before the output is missing."""
    become(module(pipeline, "transformer.norm_final"), forward=unchanged)


@patch("final_norm_rms")
def final_norm_rms(pipeline: Pipeline) -> None:
    """The norm before the output divides by the root mean square and keeps the mean."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps) + self.bias

    become(module(pipeline, "transformer.norm_final"), forward=forward)


@patch("time_sine_first")
def time_sine_first(pipeline: Pipeline) -> None:
    """Sines before cosines in the timestep embedding."""
    module(pipeline, "transformer.time_proj").flip_sin_to_cos = False


@patch("time_frequency_shift")
def time_frequency_shift(pipeline: Pipeline) -> None:
    """The timestep embedding's frequencies are divided by half - 1."""
    module(pipeline, "transformer.time_proj").downscale_freq_shift = 1


def _timestep(pipeline: Pipeline, change: Callable[[Tensor], Tensor]) -> None:
    def act(arguments: Any, keywords: Any) -> tuple[Any, Any]:
        return arguments, {**keywords, "timestep": change(keywords["timestep"])}

    on_input(module(pipeline, "transformer"), act)


@patch("time_off_by_one")
def time_off_by_one(pipeline: Pipeline) -> None:
    """The transformer is told t - 1."""
    _timestep(pipeline, lambda t: t - 1)


@patch("time_as_fraction")
def time_as_fraction(pipeline: Pipeline) -> None:
    """The transformer is told t / 1000."""
    _timestep(pipeline, lambda t: t / 1000)


@patch("time_bf16")
def time_bf16(pipeline: Pipeline) -> None:
    """The timestep is rounded to bfloat16: 999 becomes 1000, 874 becomes 872."""
    _timestep(pipeline, lambda t: t.bfloat16().float())


@patch("activation_exact")
def activation_exact(pipeline: Pipeline) -> None:
    """Exact GELU in place of its tanh form."""
    for each in blocks(pipeline):
        each.ff.net[0].approximate = "none"


@patch("activation_relu")
def activation_relu(pipeline: Pipeline) -> None:
    """ReLU in block 5's feed-forward."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return F.relu(self.proj(x))

    become(block(pipeline, 5).ff.net[0], forward=forward)


@patch("feed_forward_without_text")
def feed_forward_without_text(pipeline: Pipeline) -> None:
    """Block 0's feed-forward does nothing to the text."""

    def change(output: Tensor) -> Tensor:
        output = output.clone()
        output[:, :24] = 0
        return output

    on_output(block(pipeline, 0).ff, change)


@patch("tokens_text_last")
def tokens_text_last(pipeline: Pipeline) -> None:
    """The patch embedding puts the text after the video."""
    on_output(
        module(pipeline, "transformer.patch_embed"),
        lambda tokens: torch.cat((tokens[:, 24:], tokens[:, :24]), dim=1),
    )


@patch("time_silu_missing")
def time_silu_missing(pipeline: Pipeline) -> None:
    """The timestep embedding's activation is missing."""
    module(pipeline, "transformer.time_embedding").act = None


def _at_timestep(pipeline: Pipeline, timestep: int, factor: float) -> None:
    """Scale the transformer's output where the schedule of 8 steps has `timestep`."""

    def change(_arguments: Any, keywords: Any, output: Any) -> Any:
        here = int(keywords["timestep"].flatten()[0]) == timestep
        return (output[0] * factor, *output[1:]) if here else output

    on_call(module(pipeline, "transformer"), change)


@patch("first_step_only")
def first_step_only(pipeline: Pipeline) -> None:
    """1 % too much velocity in the first step and no other."""
    _at_timestep(pipeline, 999, 1.01)


@patch("middle_step_only")
def middle_step_only(pipeline: Pipeline) -> None:
    """2 % too much velocity in step 3 of 8 and no other."""
    _at_timestep(pipeline, 624, 1.02)


@patch("last_step_only")
def last_step_only(pipeline: Pipeline) -> None:
    """2 % too much velocity in the last step and no other."""
    _at_timestep(pipeline, 124, 1.02)


@patch("velocity_clamped")
def velocity_clamped(pipeline: Pipeline) -> None:
    """The transformer's output is clamped to [-2, 2]."""
    on_output(module(pipeline, "transformer"), lambda out: (out[0].clamp(-2, 2), *out[1:]))


@patch("block_cached")
def block_cached(pipeline: Pipeline) -> None:
    """Block 3 is computed in every other step only and repeated in between: an undeclared cache."""
    kept: dict[str, Any] = {"calls": 0}

    def change(arguments: Any, keywords: Any, output: Any) -> Any:
        given, calls = _given(arguments, keywords), kept["calls"]
        kept["calls"] = calls + 1
        if calls % 2 == 0:
            kept["change"] = tuple(o - g for o, g in zip(output, given, strict=True))
            return output
        return tuple(g + c for g, c in zip(given, kept["change"], strict=True))

    on_call(block(pipeline, 3), change)
