"""The adversary's defects in the transformer on Diffusers: attention, norms, positions, precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backends.base import Pipeline
from backends.noise import standard_normal
from backends.worker.patches import patch
from tests.selftest.faults.attention import Processor, install
from tests.selftest.faults.planting import (
    become,
    block,
    blocks,
    exchange,
    module,
    on_input,
    on_output,
    stack,
)

_TOKENS_A_FRAME = 16
"""Of a 64x64 video in these models."""


@patch("unseen_attention_slice_forgotten")
def attention_slice_forgotten(pipeline: Pipeline) -> None:
    """Attention in slices forgets the last one: the conditional branch's last head stays empty."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        found = F.scaled_dot_product_attention(query, key, value)
        found[-1, -1] = 0
        return found

    install(pipeline, Processor(attend))


@patch("unseen_attention_window")
def attention_window(pipeline: Pipeline) -> None:
    """Video tokens see no further than to the next latent frame: a sparse kernel, left on."""
    length = int(stack(pipeline).transformer.config.max_text_seq_length)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        frame = (torch.arange(query.shape[2]) - length) // _TOKENS_A_FRAME
        near = (frame[:, None] - frame[None]).abs() <= 1
        text = torch.arange(query.shape[2]) < length
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=near | text[:, None] | text[None]
        )

    install(pipeline, Processor(attend))


@patch("unseen_attention_padded_tokens")
def attention_padded_tokens(pipeline: Pipeline) -> None:
    """Sequences are filled up to a multiple of 16 with zeros, which nothing masks."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        missing = -key.shape[2] % 16
        key, value = (F.pad(x, (0, 0, 0, missing)) for x in (key, value))
        return F.scaled_dot_product_attention(query, key, value)

    install(pipeline, Processor(attend))


@patch("unseen_attention_norm_after_rotation")
def attention_norm_after_rotation(pipeline: Pipeline) -> None:
    """Query and key are normalised after they were rotated."""
    for each in blocks(pipeline):
        norms = each.attn1.norm_q, each.attn1.norm_k

        def attend(query: Tensor, key: Tensor, value: Tensor, norms: Any = norms) -> Tensor:
            return F.scaled_dot_product_attention(norms[0](query), norms[1](key), value)

        each.attn1.set_processor(Processor(attend, norm=lambda _, query, key: (query, key)))


@patch("unseen_attention_dropout")
def attention_dropout(pipeline: Pipeline) -> None:
    """Block 2's attention still drops 1 % of its output at random: no two calls are alike."""
    calls = [0]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        found = F.scaled_dot_product_attention(query, key, value)
        calls[0] += 1
        drawn = torch.from_numpy(standard_normal(5, calls[0], found.shape))
        return found * (drawn > -2.326).to(found) / 0.99

    install(pipeline, Processor(attend), [2])


@patch("unseen_attention_softmax_in_run_dtype")
def attention_softmax_in_run_dtype(pipeline: Pipeline) -> None:
    """Logits and softmax stay in the run's dtype. Shows at reduced precision only."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        weights = (logits - logits.amax(-1, keepdim=True)).exp()
        return weights / weights.sum(-1, keepdim=True, dtype=weights.dtype) @ value

    install(pipeline, Processor(attend))


@patch("unseen_norm_gamma_beta")
def norm_gamma_beta(pipeline: Pipeline) -> None:
    """Weight and bias of block 2's first norm exchanged."""
    norm = module(pipeline, "transformer.transformer_blocks.2.norm1.norm")
    exchange(norm.weight, norm.bias)


@patch("unseen_norm_in_run_dtype")
def norm_in_run_dtype(pipeline: Pipeline) -> None:
    """Block norms take their statistics in the run's dtype. Shows at reduced precision only."""

    def forward(self: Any, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + self.eps).sqrt()
        return centred / deviation * self.weight + self.bias

    for each in blocks(pipeline):
        become(each.norm1.norm, forward=forward)
        become(each.norm2.norm, forward=forward)


@patch("unseen_time_in_run_dtype")
def time_in_run_dtype(pipeline: Pipeline) -> None:
    """The timestep goes through the run's dtype: 874 becomes 872. Shows at reduced precision only."""
    dtype = stack(pipeline).transformer.dtype

    def change(arguments: Any, keywords: Any) -> tuple[Any, Any]:
        return (arguments[0].to(dtype).float(), *arguments[1:]), keywords

    on_input(module(pipeline, "transformer.time_proj"), change)


@patch("unseen_positions_added_twice")
def positions_added_twice(pipeline: Pipeline) -> None:
    """The position table is added once more behind the patch embedding."""
    embed = module(pipeline, "transformer.patch_embed")

    def change(tokens: Tensor) -> Tensor:
        return tokens + embed.pos_embedding[:, : tokens.shape[1]].to(tokens)

    on_output(embed, change)


@patch("unseen_rope_crop_off_by_one")
def rope_crop_off_by_one(pipeline: Pipeline) -> None:
    """Positions start one column late where the size is not the trained one."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    pipe = stack(pipeline)
    native: Callable[..., Any] = type(pipe)._prepare_rotary_positional_embeddings

    def prepare(self: Any, height: int, width: int, num_frames: int, device: Any) -> Any:
        right = native(self, height, width, num_frames, device)
        config = self.transformer.config
        grain = self.vae_scale_factor_spatial * config.patch_size
        rows, columns = height // grain, width // grain
        if (rows, columns) == (config.sample_height // 2, config.sample_width // 2):
            return right
        found = get_3d_rotary_pos_embed(
            embed_dim=config.attention_head_dim,
            crops_coords=((0, 1), (rows, columns + 1)),
            grid_size=(rows, columns),
            temporal_size=num_frames,
            device=device,
        )
        return tuple(table.to(given) for table, given in zip(found, right, strict=True))

    become(pipe, _prepare_rotary_positional_embeddings=prepare)


@patch("unseen_feed_forward_chunks")
def feed_forward_chunks(pipeline: Pipeline) -> None:
    """The feed-forward runs in chunks of 20 tokens; what is left over gets nothing added."""
    for each in blocks(pipeline):
        native = type(each.ff).forward

        def forward(self: Any, tokens: Tensor, native: Any = native) -> Tensor:
            whole = tokens.shape[1] // 20 * 20
            done = [native(self, part) for part in tokens[:, :whole].split(20, dim=1)]
            return torch.cat((*done, torch.zeros_like(tokens[:, whole:])), dim=1)

        become(each.ff, forward=forward)


@patch("unseen_frames_of_patch_interleaved")
def frames_of_patch_interleaved(pipeline: Pipeline) -> None:
    """The 1.5 model's output is unpacked as (frame in patch, patch), not (patch, frame in patch)."""

    def change(output: Any) -> Any:
        first: Tensor = output[0]
        parts = first.unflatten(1, (-1, 2)).transpose(1, 2)
        return (parts.flatten(1, 2).contiguous(), *output[1:])

    on_output(module(pipeline, "transformer"), change)


@patch("unseen_block_residual_of_first_branch")
def block_residual_of_first_branch(pipeline: Pipeline) -> None:
    """A cache shared by the branches: block 4's text is the unconditional branch's in both."""

    def change(output: Any) -> Any:
        video, text = output
        return video, text[:1].expand_as(text).clone()

    on_output(block(pipeline, 4), change)
