"""Defects in the attention of the Diffusers transformer: kernels, scales, masks, heads, norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backends.base import Pipeline
from backends.worker.patches import patch
from tests.selftest.faults.planting import blocks, stack

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
Rotate = Callable[[Tensor, tuple[Tensor, Tensor]], Tensor]


def rotated(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Diffusers' rotation of neighbouring channel pairs, in float32."""
    cos, sin = (table[None, None].to(x.device) for table in rotary)
    real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((-imaginary, real), dim=-1).flatten(3)
    return (x.float() * cos + turned.float() * sin).to(x.dtype)


def unrotated(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """No rotation."""
    return x


def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Full attention (B, heads, N, d)."""
    return F.scaled_dot_product_attention(query, key, value)


def merged(heads: Tensor) -> Tensor:
    """(B, heads, N, d) -> (B, N, heads d)."""
    return heads.transpose(1, 2).flatten(2)


def normalised(attention: Any, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Layer norms of the heads of query and key."""
    return attention.norm_q(query), attention.norm_k(key)


@dataclass(frozen=True)
class Processor:
    """CogVideoX's joint attention in parts; with none replaced it gives Diffusers' bits.

    Called as Diffusers calls an attention processor: returns (video, text) tokens.
    """

    attend: Attend = attended
    rotate_query: Rotate = rotated
    rotate_key: Rotate = rotated
    rotate_value: Rotate = unrotated
    norm: Callable[[Any, Tensor, Tensor], tuple[Tensor, Tensor]] = normalised
    merge: Callable[[Tensor], Tensor] = merged
    text_first: bool = True

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        length = encoder_hidden_states.shape[1]
        tokens = torch.cat((encoder_hidden_states, hidden_states), dim=1)
        query, key, value = (
            layer(tokens).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        query, key = self.norm(attn, query, key)
        if image_rotary_emb is not None:
            query, key, value = (
                torch.cat((x[:, :, :length], rotate(x[:, :, length:], image_rotary_emb)), dim=2)
                for x, rotate in (
                    (query, self.rotate_query),
                    (key, self.rotate_key),
                    (value, self.rotate_value),
                )
            )
        output = attn.to_out[1](attn.to_out[0](self.merge(self.attend(query, key, value))))
        at = length if self.text_first else hidden_states.shape[1]
        first, second = output[:, :at], output[:, at:]
        return (second, first) if self.text_first else (first, second)


def install(pipeline: Pipeline, processor: Any, only: Sequence[int] | None = None) -> None:
    """Use `processor` in all blocks, or in those of `only`."""
    for index, each in enumerate(blocks(pipeline)):
        if only is None or index in only:
            each.attn1.set_processor(processor)


def _text_length(pipeline: Pipeline) -> int:
    return int(stack(pipeline).transformer.config.max_text_seq_length)


@patch("attention_scale")
def scale(pipeline: Pipeline) -> None:
    """Logits scaled by 1/sqrt(64), the released models' head size, whatever the head size is."""
    install(
        pipeline, Processor(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.125))
    )


@patch("attention_scale_in_block_3")
def scale_in_block_3(pipeline: Pipeline) -> None:
    """One block's logits 5 % too large."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q * 1.05, k, v)

    install(pipeline, Processor(attend), [3])


@patch("attention_softmax_bf16")
def softmax_bf16(pipeline: Pipeline) -> None:
    """The softmax is computed in bfloat16 whatever the run's dtype."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        logits = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).bfloat16()
        return logits.softmax(-1).to(v.dtype) @ v

    install(pipeline, Processor(attend))


@patch("attention_padding_masked")
def padding_masked(pipeline: Pipeline) -> None:
    """The second half of the text tokens is masked, as padding is in other models."""
    length = _text_length(pipeline)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        kept = [*range(length // 2), *range(length, k.shape[2])]
        return attended(q, k[:, :, kept], v[:, :, kept])

    install(pipeline, Processor(attend))


@patch("attention_last_keys_dropped")
def last_keys_dropped(pipeline: Pipeline) -> None:
    """A packed kernel takes the first n keys where it should take the unmasked ones."""
    install(pipeline, Processor(lambda q, k, v: attended(q, k[:, :, :-4], v[:, :, :-4])))


@patch("attention_causal")
def causal(pipeline: Pipeline) -> None:
    """A kernel's causal flag left on."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    install(pipeline, Processor(attend))


@patch("attention_causal_in_block_2")
def causal_in_block_2(pipeline: Pipeline) -> None:
    """The causal flag left on in one block."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    install(pipeline, Processor(attend), [2])


@patch("attention_heads_not_merged")
def heads_not_merged(pipeline: Pipeline) -> None:
    """Heads reshaped without the transpose."""
    install(pipeline, Processor(merge=lambda x: x.reshape(x.shape[0], x.shape[2], -1)))


@patch("attention_heads_rolled")
def heads_rolled(pipeline: Pipeline) -> None:
    """Block 1's heads are merged in another order."""
    install(pipeline, Processor(merge=lambda x: merged(x.roll(1, dims=1))), [1])


@patch("attention_branches_mixed")
def branches_mixed(pipeline: Pipeline) -> None:
    """The conditional branch sees the unconditional one's keys and values in block 3: a shared cache."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attended(q, k[:1].expand_as(k), v[:1].expand_as(v))

    install(pipeline, Processor(attend), [3])


@patch("attention_query_norm_missing")
def query_norm_missing(pipeline: Pipeline) -> None:
    """Block 2 does not normalise its queries."""
    install(pipeline, Processor(norm=lambda attn, q, k: (q, attn.norm_k(k))), [2])


@patch("attention_norm_epsilon")
def norm_epsilon(pipeline: Pipeline) -> None:
    """The norms of query and key have an eps a thousand times too large."""
    for each in blocks(pipeline):
        each.attn1.norm_q.eps = each.attn1.norm_k.eps = 1e-3


@patch("attention_norm_rms")
def norm_rms(pipeline: Pipeline) -> None:
    """Query and key are divided by their root mean square; the mean stays."""

    def rms(norm: Any, x: Tensor) -> Tensor:
        return F.rms_norm(x, norm.weight.shape, norm.weight, norm.eps) + norm.bias

    def norm(attn: Any, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return rms(attn.norm_q, q), rms(attn.norm_k, k)

    install(pipeline, Processor(norm=norm))


@patch("attention_norm_over_all_heads")
def norm_over_all_heads(pipeline: Pipeline) -> None:
    """Query and key are normalised over all heads together, then scaled per head."""

    def whole(norm: Any, x: Tensor) -> Tensor:
        flat = merged(x)
        same = F.layer_norm(flat, flat.shape[-1:], eps=norm.eps)
        heads = same.unflatten(-1, (x.shape[1], -1)).transpose(1, 2)
        return heads * norm.weight + norm.bias

    def norm(attn: Any, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return whole(attn.norm_q, q), whole(attn.norm_k, k)

    install(pipeline, Processor(norm=norm))


@patch("attention_soft_cap")
def soft_cap(pipeline: Pipeline) -> None:
    """Logits go through 30 tanh(x / 30), as in another model family."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        return (30 * torch.tanh(logits / 30)).softmax(-1) @ v

    install(pipeline, Processor(attend))


@patch("attention_int8")
def int8(pipeline: Pipeline) -> None:
    """Query and key are rounded to 8 bits a tensor, though nobody asked for it."""

    def rounded(x: Tensor) -> Tensor:
        step = x.abs().amax() / 127
        return (x / step).round() * step

    install(pipeline, Processor(lambda q, k, v: attended(rounded(q), rounded(k), v)))


@patch("attention_overflow")
def overflow(pipeline: Pipeline) -> None:
    """Block 4's logits overflow in half precision, with infinities and then NaN."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        logits = (q * 3e3).half() @ (k * 3e3).half().transpose(-1, -2)
        return logits.to(v.dtype).softmax(-1) @ v

    install(pipeline, Processor(attend), [4])


@patch("attention_streams_split_wrongly")
def streams_split_wrongly(pipeline: Pipeline) -> None:
    """Block 1 takes the text tokens from the end of the sequence, where others put them."""
    install(pipeline, Processor(text_first=False), [1])


@patch("attention_exponent_base")
def exponent_base(pipeline: Pipeline) -> None:
    """The softmax of block 0 uses 2^x in place of e^x: a fused kernel without log2(e)."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q * math.log(2), k, v)

    install(pipeline, Processor(attend), [0])


@patch("attention_token_dropped")
def token_dropped(pipeline: Pipeline) -> None:
    """A tile's remainder is lost: the last query of block 5 gets the row before."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = attended(q, k, v)
        return torch.cat((out[:, :, :-1], out[:, :, -2:-1]), dim=2)

    install(pipeline, Processor(attend), [5])


@patch("attention_processor_rewritten")
def processor_rewritten(pipeline: Pipeline) -> None:
    """No defect: the same attention from other code, which the others here are variations of."""
    install(pipeline, Processor())
