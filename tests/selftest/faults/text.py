"""Defects in what the text becomes on Diffusers: tokens, padding, encoder, unconditional branch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from backends.base import Pipeline
from backends.worker.patches import patch
from tests.selftest.faults.planting import become, module, on_input, on_output, stack, unchanged


def on_tokens(pipeline: Pipeline, change: Callable[[Tensor], Tensor]) -> None:
    """Let `change` replace the token ids (1, L) that the encoder is given."""

    def act(arguments: Any, keywords: Any) -> tuple[Any, Any]:
        if arguments:
            return (change(arguments[0]), *arguments[1:]), keywords
        return arguments, {**keywords, "input_ids": change(keywords["input_ids"])}

    on_input(module(pipeline, "text_encoder"), act)


def on_embeddings(pipeline: Pipeline, change: Callable[[list[str], Tensor], Tensor]) -> None:
    """Let `change(prompts, embeddings)` replace what the pipeline gets for `prompts`."""
    pipe = stack(pipeline)
    native = type(pipe)._get_t5_prompt_embeds

    def encode(self: Any, prompt: Any = None, *arguments: Any, **keywords: Any) -> Tensor:
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        return change(prompts, native(self, prompt, *arguments, **keywords))

    become(pipe, _get_t5_prompt_embeds=encode)


@patch("text_without_end_token")
def without_end_token(pipeline: Pipeline) -> None:
    """The end-of-text token is missing."""
    on_tokens(pipeline, lambda ids: ids.masked_fill(ids == 1, 0))


@patch("text_padding_is_end")
def padding_is_end(pipeline: Pipeline) -> None:
    """Padded with the end-of-text token, as tokenizers without a padding token do."""
    on_tokens(pipeline, lambda ids: ids.masked_fill(ids == 0, 1))


@patch("text_padded_left")
def padded_left(pipeline: Pipeline) -> None:
    """Padding comes before the words."""
    on_tokens(pipeline, lambda ids: torch.stack([r.roll(int((r == 0).sum())) for r in ids]))


@patch("text_cut")
def cut(pipeline: Pipeline) -> None:
    """Everything after the sixth token is dropped without a word."""

    def change(ids: Tensor) -> Tensor:
        ids = ids.clone()
        ids[:, 6:] = 0
        return ids

    on_tokens(pipeline, change)


@patch("text_shorter")
def shorter(pipeline: Pipeline) -> None:
    """Encoded with two tokens less than the model's length."""
    on_embeddings(pipeline, lambda _, found: found[:, :-2])


@patch("text_unconditional_zero")
def unconditional_zero(pipeline: Pipeline) -> None:
    """The empty prompt becomes zeros, as in SAT."""
    on_embeddings(pipeline, lambda words, out: torch.zeros_like(out) if words == [""] else out)


@patch("text_unconditional_word")
def unconditional_word(pipeline: Pipeline) -> None:
    """An empty negative prompt is replaced by a default word."""
    pipe = stack(pipeline)
    native = type(pipe)._get_t5_prompt_embeds

    def encode(self: Any, prompt: Any = None, *arguments: Any, **keywords: Any) -> Tensor:
        words = [prompt] if isinstance(prompt, str) else list(prompt)
        return native(self, [word or "a" for word in words], *arguments, **keywords)

    become(pipe, _get_t5_prompt_embeds=encode)


@patch("text_padding_zeroed")
def padding_zeroed(pipeline: Pipeline) -> None:
    """The embeddings of padding are set to zero, as other pipelines do."""
    tokenizer = stack(pipeline).tokenizer

    def change(words: list[str], found: Tensor) -> Tensor:
        count = len(tokenizer(words[0]).input_ids)
        return torch.cat((found[:, :count], torch.zeros_like(found[:, count:])), dim=1)

    on_embeddings(pipeline, change)


@patch("text_padding_masked")
def padding_masked(pipeline: Pipeline) -> None:
    """The encoder is given an attention mask; CogVideoX was trained without."""

    def act(arguments: Any, keywords: Any) -> tuple[Any, Any]:
        ids = arguments[0] if arguments else keywords["input_ids"]
        return arguments, {**keywords, "attention_mask": (ids != 0).long()}

    on_input(module(pipeline, "text_encoder"), act)


@patch("text_final_norm_missing")
def final_norm_missing(pipeline: Pipeline) -> None:
    """T5's last norm is left out."""
    become(module(pipeline, "text_encoder.encoder.final_layer_norm"), forward=unchanged)


@patch("text_last_block_missing")
def last_block_missing(pipeline: Pipeline) -> None:
    """The last but one layer is taken, as with clip_skip."""
    encoder = module(pipeline, "text_encoder.encoder")
    encoder.block = encoder.block[:-1]


@patch("text_half")
def half(pipeline: Pipeline) -> None:
    """T5 cast whole to float16, its `wo` too."""
    for name, parameter in module(pipeline, "text_encoder").named_parameters():
        if "embed" not in name:
            parameter.data = parameter.data.half().to(parameter.dtype)

    def rounded(output: Any) -> Any:
        return output.half().to(output.dtype) if isinstance(output, Tensor) else output

    for layer in module(pipeline, "text_encoder").modules():
        if isinstance(layer, nn.Linear):
            on_output(layer, rounded)


@patch("text_bf16")
def bf16(pipeline: Pipeline) -> None:
    """The embeddings are rounded to bfloat16 in a float32 run."""
    on_embeddings(pipeline, lambda _, found: found.bfloat16().to(found.dtype))


@patch("text_activation")
def activation(pipeline: Pipeline) -> None:
    """T5's gated GELU is a gated ReLU."""
    for name, layer in pipeline.modules().items():
        if name.startswith("text_encoder") and name.endswith("DenseReluDense"):
            layer.act = nn.ReLU()


@patch("text_position_buckets")
def position_buckets(pipeline: Pipeline) -> None:
    """Relative positions are bucketed for a distance of 16 in place of 128."""
    attention = "text_encoder.encoder.block.0.layer.0.SelfAttention"
    module(pipeline, attention).relative_attention_max_distance = 16


@patch("text_scaled")
def scaled(pipeline: Pipeline) -> None:
    """The embeddings are 1 % too large."""
    on_embeddings(pipeline, lambda _, found: found * 1.01)
