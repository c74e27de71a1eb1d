"""Defects of offloading: at the moment of use a module's weights are not those that it owns.

They are altered when the module is called and put right again afterwards, so that looking at the
weights between calls, as the identity does, finds nothing wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from backends.base import Pipeline
from backends.noise import NoiseTape
from backends.worker.patches import patch
from tests.selftest.faults.noise import AlteredTape, other_initial
from tests.selftest.faults.planting import altered, block, module


def at_use(
    target: nn.Module,
    change: Callable[[Tensor], Tensor],
    when: Callable[[int], bool] = lambda call: True,
) -> None:
    """Alter the parameters and buffers of `target` during its calls number `when`, from 0."""
    state: dict[str, Any] = {"call": 0, "kept": []}

    def before(_module: nn.Module, _arguments: Any) -> None:
        call = state["call"]
        state["call"] = call + 1
        if not when(call):
            return
        tensors = [*target.parameters(), *target.buffers()]
        state["kept"] = [(tensor, tensor.detach().clone()) for tensor in tensors]
        with torch.no_grad():
            for tensor in tensors:
                tensor.copy_(change(tensor))

    def after(*_: Any) -> None:
        with torch.no_grad():
            for tensor, value in state["kept"]:
                tensor.copy_(value)
        state["kept"] = []

    target.register_forward_pre_hook(before)
    target.register_forward_hook(after, always_call=True)


def _older(value: Tensor) -> Tensor:
    """Weights as before the last training steps: a little smaller."""
    return value * 0.97


@patch("offload_stale_block")
def stale_block(pipeline: Pipeline) -> None:
    """Block 2 runs with weights from before the last update."""
    at_use(block(pipeline, 2), _older)


@patch("offload_block_not_loaded")
def block_not_loaded(pipeline: Pipeline) -> None:
    """Block 4's weights never arrive: the fresh allocation is all zeros."""
    at_use(block(pipeline, 4), torch.zeros_like)


@patch("offload_block_fp8")
def block_fp8(pipeline: Pipeline) -> None:
    """Block 1 is brought in through float8, which only its neighbours were meant for."""
    at_use(block(pipeline, 1), lambda value: value.to(torch.float8_e4m3fn).to(value.dtype))


@patch("offload_half_copied")
def half_copied(pipeline: Pipeline) -> None:
    """In the first call block 3 starts before its copy has ended: the last rows are zero."""

    def change(value: Tensor) -> Tensor:
        value = value.clone()
        value[len(value) // 2 :] = 0
        return value

    at_use(block(pipeline, 3), change, lambda call: call == 0)


@patch("offload_prefetch_race")
def prefetch_race(pipeline: Pipeline) -> None:
    """In one call in the middle block 5 still has the weights of block 4."""
    target, other = block(pipeline, 5), block(pipeline, 4)
    foreign = {
        id(own): value.detach().clone()
        for own, value in zip(target.parameters(), other.parameters(), strict=True)
    }
    at_use(target, lambda tensor: foreign[id(tensor)], lambda call: call == 4)


@patch("offload_position_buffer_not_moved")
def position_buffer_not_moved(pipeline: Pipeline) -> None:
    """The position table stays behind: the parameters arrive, the buffer is zeros."""
    embed = module(pipeline, "transformer.patch_embed")
    kept: list[Tensor] = []

    def before(*_: Any) -> None:
        kept[:] = [embed.pos_embedding]
        embed.pos_embedding = torch.zeros_like(embed.pos_embedding)

    def after(*_: Any) -> None:
        embed.pos_embedding = kept[0]

    embed.register_forward_pre_hook(before)
    embed.register_forward_hook(after, always_call=True)


@patch("offload_stale_text_norm")
def stale_text_norm(pipeline: Pipeline) -> None:
    """T5's last norm runs with old weights."""
    at_use(module(pipeline, "text_encoder.encoder.final_layer_norm"), _older)


@patch("offload_stale_decoder_norm")
def stale_decoder_norm(pipeline: Pipeline) -> None:
    """The decoder's last norm runs with old weights."""
    at_use(module(pipeline, "vae.decoder.norm_out.norm_layer"), _older)


@patch("offload_projection_from_other_layer")
def projection_from_other_layer(pipeline: Pipeline) -> None:
    """Block 0's key projection is brought in where its query belongs: one buffer for two layers."""
    attention = block(pipeline, 0).attn1
    other = [attention.to_k.weight.detach().clone(), attention.to_k.bias.detach().clone()]

    def change(value: Tensor) -> Tensor:
        return other[0] if value.dim() == 2 else other[1]

    at_use(attention.to_q, change)


@patch("offload_generator_on_device")
def generator_on_device(pipeline: Pipeline) -> Pipeline:
    """The generator is made on the device that offloading reports: the noise is another one."""

    def tape(inner: NoiseTape) -> NoiseTape:
        return AlteredTape(inner, other_initial)

    return altered(pipeline, tape=tape)
