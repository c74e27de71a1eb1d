"""Defects in the weights of a Diffusers pipeline: what a conversion or a broken file leaves behind."""

from __future__ import annotations

from typing import Any

import torch

from backends.base import Pipeline
from backends.micro import MODELS, model_path
from backends.worker.patches import patch
from tests.selftest.faults.planting import block, blocks, exchange, module, overwrite, stack


def _other_weights(pipeline: Pipeline, component: str) -> dict[str, torch.Tensor]:
    """The weights of `component` in the micro model that is not open."""
    from safetensors.torch import load_file

    open_one = str(stack(pipeline).config["_name_or_path"])
    other = next(name for name in MODELS if not open_one.endswith(name))
    file = model_path(other) / component / "diffusion_pytorch_model.safetensors"
    return load_file(str(file))


@patch("weights_query_key_swapped")
def query_key_swapped(pipeline: Pipeline) -> None:
    """SAT's joint matrix split in the order key, query, value."""
    for each in blocks(pipeline):
        for kind in ("weight", "bias"):
            exchange(getattr(each.attn1.to_q, kind), getattr(each.attn1.to_k, kind))


@patch("weights_key_value_swapped")
def key_value_swapped(pipeline: Pipeline) -> None:
    """SAT's joint matrix split in the order query, value, key."""
    for each in blocks(pipeline):
        for kind in ("weight", "bias"):
            exchange(getattr(each.attn1.to_k, kind), getattr(each.attn1.to_v, kind))


@patch("weights_query_key_swapped_in_block_4")
def query_key_swapped_in_block_4(pipeline: Pipeline) -> None:
    """One block's matrix is split in another order than the rest."""
    attention = block(pipeline, 4).attn1
    for kind in ("weight", "bias"):
        exchange(getattr(attention.to_q, kind), getattr(attention.to_k, kind))


@patch("weights_modulation_regrouped")
def modulation_regrouped(pipeline: Pipeline) -> None:
    """SAT's twelve vectors cut in the middle, not dealt out to the two norms."""
    for each in blocks(pipeline):
        for kind in ("weight", "bias"):
            first, second = (getattr(n.linear, kind) for n in (each.norm1, each.norm2))
            a, b = first.chunk(2), second.chunk(2)
            # Sat's order is a0 b0 a1 b1; the first norm should take a0 a1.
            mixed = torch.cat((a[0], b[0], a[1], b[1])).clone()
            overwrite(first, mixed[: len(first)])
            overwrite(second, mixed[len(first) :])


@patch("weights_modulation_streams_swapped")
def modulation_streams_swapped(pipeline: Pipeline) -> None:
    """The video stream is modulated by the text's vectors, and the other way round."""
    for each in blocks(pipeline):
        for norm in (each.norm1, each.norm2):
            for kind in ("weight", "bias"):
                value = getattr(norm.linear, kind)
                overwrite(value, torch.cat(value.chunk(2)[::-1]).clone())


@patch("weights_foreign_block")
def foreign_block(pipeline: Pipeline) -> None:
    """Block 2 comes from another checkpoint."""
    prefix = "transformer_blocks.2."
    found = _other_weights(pipeline, "transformer")
    state = {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}
    block(pipeline, 2).load_state_dict(state)


@patch("weights_decoder_block_not_loaded")
def decoder_block_not_loaded(pipeline: Pipeline) -> None:
    """One residual block of the decoder has random initial weights."""
    target = module(pipeline, "vae.decoder.up_blocks.1.resnets.0")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in target.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()


@patch("weights_blocks_exchanged")
def blocks_exchanged(pipeline: Pipeline) -> None:
    """Blocks 2 and 3 have changed places."""
    first, second = block(pipeline, 2), block(pipeline, 3)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        exchange(a, b)


@patch("weights_patch_transposed")
def patch_transposed(pipeline: Pipeline) -> None:
    """Rows and columns within a patch exchanged on the way in."""
    weight = module(pipeline, "transformer.patch_embed.proj").weight
    overwrite(weight, weight.transpose(2, 3).clone())


@patch("weights_unpatch_transposed")
def unpatch_transposed(pipeline: Pipeline) -> None:
    """Rows and columns within a patch exchanged on the way out."""
    layer = module(pipeline, "transformer.proj_out")
    for value in (layer.weight, layer.bias):
        parts = value.view(-1, 2, 2, *value.shape[1:])
        overwrite(value, parts.transpose(1, 2).reshape(value.shape).clone())


@patch("weights_norm_out_halves_swapped")
def norm_out_halves_swapped(pipeline: Pipeline) -> None:
    """Shift and scale of the last norm exchanged, with no code to match."""
    layer = module(pipeline, "transformer.norm_out.linear")
    for value in (layer.weight, layer.bias):
        overwrite(value, torch.cat(value.chunk(2)[::-1]).clone())


def _zero(value: Any) -> None:
    overwrite(value, torch.zeros_like(value))


@patch("weights_value_bias_lost")
def value_bias_lost(pipeline: Pipeline) -> None:
    """The bias of one projection was not loaded: block 3's value."""
    _zero(block(pipeline, 3).attn1.to_v.bias)


@patch("weights_output_bias_lost")
def output_bias_lost(pipeline: Pipeline) -> None:
    """The bias of block 1's attention output was not loaded."""
    _zero(block(pipeline, 1).attn1.to_out[0].bias)


@patch("weights_time_bias_lost")
def time_bias_lost(pipeline: Pipeline) -> None:
    """The bias of the timestep embedding's second layer was not loaded."""
    _zero(module(pipeline, "transformer.time_embedding.linear_2").bias)


@patch("weights_text_projection_bias_lost")
def text_projection_bias_lost(pipeline: Pipeline) -> None:
    """The bias of the text projection was not loaded."""
    _zero(module(pipeline, "transformer.patch_embed.text_proj").bias)


@patch("weights_head_lost")
def head_lost(pipeline: Pipeline) -> None:
    """One head of block 2 contributes nothing."""
    weight = block(pipeline, 2).attn1.to_out[0].weight
    size = weight.shape[1] // 4
    with torch.no_grad():
        weight[:, size : 2 * size] = 0


@patch("weights_row_lost")
def row_lost(pipeline: Pipeline) -> None:
    """A single row of block 3's feed-forward is zero, as after a damaged file."""
    with torch.no_grad():
        block(pipeline, 3).ff.net[2].weight[7] = 0


@patch("weights_scaled")
def scaled(pipeline: Pipeline) -> None:
    """Block 5's feed-forward output is 2 % too large, as with a wrong quantisation scale."""
    weight = block(pipeline, 5).ff.net[2].weight
    overwrite(weight, weight * 1.02)


@patch("weights_query_key_norms_swapped")
def query_key_norms_swapped(pipeline: Pipeline) -> None:
    """The norms of query and key exchanged in every block."""
    for each in blocks(pipeline):
        for kind in ("weight", "bias"):
            exchange(getattr(each.attn1.norm_q, kind), getattr(each.attn1.norm_k, kind))


@patch("weights_query_norm_not_loaded")
def query_norm_not_loaded(pipeline: Pipeline) -> None:
    """Block 0's query norm has its initial values."""
    norm = block(pipeline, 0).attn1.norm_q
    overwrite(norm.weight, torch.ones_like(norm.weight))
    _zero(norm.bias)


@patch("weights_norm_not_loaded")
def norm_not_loaded(pipeline: Pipeline) -> None:
    """The norm before the output has its initial values."""
    norm = module(pipeline, "transformer.norm_final")
    overwrite(norm.weight, torch.ones_like(norm.weight))
    _zero(norm.bias)


@patch("weights_fuse_drift")
def fuse_drift(pipeline: Pipeline) -> None:
    """A low-rank update was added and taken off again in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    for each in blocks(pipeline):
        weight = each.attn1.to_q.weight
        delta = torch.randn(weight.shape, generator=generator) * weight.float().std() * 4
        fused = (weight.float().bfloat16() + delta.bfloat16()).bfloat16()
        overwrite(weight, (fused - delta.bfloat16()).bfloat16().float())


@patch("weights_relative_positions_lost")
def relative_positions_lost(pipeline: Pipeline) -> None:
    """T5's relative position bias was not loaded."""
    attention = "text_encoder.encoder.block.0.layer.0.SelfAttention"
    _zero(module(pipeline, f"{attention}.relative_attention_bias").weight)


@patch("weights_pad_embedding_zero")
def pad_embedding_zero(pipeline: Pipeline) -> None:
    """The embedding of T5's padding token is zero, as `padding_idx` would have it."""
    with torch.no_grad():
        module(pipeline, "text_encoder.shared").weight[0] = 0


@patch("weights_decoder_bias_lost")
def decoder_bias_lost(pipeline: Pipeline) -> None:
    """The bias of the decoder's last convolution was not loaded."""
    _zero(module(pipeline, "vae.decoder.conv_out.conv").bias)


@patch("weights_decoder_kernel_reversed")
def decoder_kernel_reversed(pipeline: Pipeline) -> None:
    """One causal kernel of the decoder is reversed in time."""
    weight = module(pipeline, "vae.decoder.mid_block.resnets.0.conv1.conv").weight
    overwrite(weight, weight.flip(2).clone())


@patch("weights_decoder_channels_reversed")
def decoder_channels_reversed(pipeline: Pipeline) -> None:
    """The decoder was trained on, or converted to, BGR."""
    layer = module(pipeline, "vae.decoder.conv_out.conv")
    for value in (layer.weight, layer.bias):
        overwrite(value, value.flip(0).clone())
