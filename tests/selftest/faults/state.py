"""Defects that need a past: the first video of a process is right, the next one is not."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from backends.base import Pipeline
from backends.worker.patches import patch
from tests.selftest.faults.planting import become, block, blocks, module, on_call, overwrite, stack


@patch("state_text_cached")
def text_cached(pipeline: Pipeline) -> None:
    """The first prompt's embedding is used for every later prompt."""
    pipe = stack(pipeline)
    native = type(pipe)._get_t5_prompt_embeds
    kept: dict[bool, Tensor] = {}

    def encode(self: Any, prompt: Any = None, *arguments: Any, **keywords: Any) -> Tensor:
        empty = not "".join([prompt] if isinstance(prompt, str) else prompt)
        if empty not in kept:
            kept[empty] = native(self, prompt, *arguments, **keywords)
        return kept[empty].clone()

    become(pipe, _get_t5_prompt_embeds=encode)


@patch("state_decoder_cache_kept")
def decoder_cache_kept(pipeline: Pipeline) -> None:
    """The decoder's convolutions go on from the end of the video before."""
    kept: dict[int, Tensor] = {}

    def padded(self: Any, inputs: Tensor, conv_cache: Tensor | None = None) -> Tensor:
        if self.time_kernel_size == 1:
            return inputs
        if conv_cache is None:
            found = kept.get(id(self))
            same = found is not None and found.shape[-2:] == inputs.shape[-2:]
            conv_cache = found if same else inputs[:, :, :1].repeat(1, 1, 2, 1, 1)
        assert conv_cache is not None
        joined = torch.cat((conv_cache.to(inputs), inputs), dim=2)
        kept[id(self)] = joined[:, :, -2:].clone()
        return joined

    for conv in module(pipeline, "vae.decoder").modules():
        if type(conv).__name__ == "CogVideoXCausalConv3d":
            become(conv, fake_context_parallel_forward=padded)


@patch("state_tiling_left_on")
def tiling_left_on(pipeline: Pipeline) -> None:
    """Decoding a video turns tiling on for the next one."""
    vae = stack(pipeline).vae
    native = type(vae)._decode

    def decode(self: Any, *arguments: Any, **keywords: Any) -> Any:
        found = native(self, *arguments, **keywords)
        self.enable_tiling()
        return found

    become(vae, _decode=decode)


@patch("state_weights_drift")
def weights_drift(pipeline: Pipeline) -> None:
    """Every video is followed by a lossy fuse and unfuse: block 0's query loses bits."""
    pipe = stack(pipeline)
    native = type(pipe).__call__

    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        found = native(self, *arguments, **keywords)
        weight = block(pipeline, 0).attn1.to_q.weight
        delta = weight.float().std() * 8
        overwrite(weight, (weight.float() + delta).bfloat16().float() - delta)
        return found

    become(pipe, __call__=call)


@patch("state_solver_history_kept")
def solver_history_kept(pipeline: Pipeline) -> None:
    """DPM's first step starts from the last clean sample of the video before."""
    scheduler = stack(pipeline).scheduler
    native = type(scheduler).step
    kept: list[Tensor] = []

    @functools.wraps(native)
    def step(self: Any, model_output: Tensor, old: Any, *arguments: Any, **keywords: Any) -> Any:
        if old is None and kept:
            model_output = model_output - 0.5 * kept[0].to(model_output)
        result, clean = native(self, model_output, old, *arguments, **keywords)
        kept[:] = [clean]
        return result, clean

    become(scheduler, step=step)


@patch("state_residual_cache_kept")
def residual_cache_kept(pipeline: Pipeline) -> None:
    """Block 3 repeats, in a video's first step, what it did in the last step before."""
    kept: dict[str, Any] = {"last": 0.0, "change": None}
    transformer = module(pipeline, "transformer")

    def note(_arguments: Any, keywords: Any, output: Any) -> Any:
        kept["last"] = float(keywords["timestep"].flatten()[0])
        return output

    def change(arguments: Any, keywords: Any, output: Any) -> Any:
        names = ("hidden_states", "encoder_hidden_states")
        values = dict(zip(names, arguments, strict=False)) | keywords
        given = tuple(values[name] for name in names)
        stale = kept["change"] if 0 < kept["last"] < 200 else None
        kept["change"] = tuple(o - g for o, g in zip(output, given, strict=True))
        if stale is None or stale[0].shape != given[0].shape:
            return output
        return tuple(g + c for g, c in zip(given, stale, strict=True))

    on_call(transformer, note)
    on_call(block(pipeline, 3), change)


@patch("state_rotary_cached")
def rotary_cached(pipeline: Pipeline) -> None:
    """Positions drift: every video's rotary table starts where the last one ended."""
    pipe = stack(pipeline)
    native = type(pipe)._prepare_rotary_positional_embeddings
    count = [0]

    def prepare(self: Any, *arguments: Any, **keywords: Any) -> Any:
        cos, sin = native(self, *arguments, **keywords)
        return cos.roll(count[0], 0), sin.roll(count[0], 0)

    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        found = native_call(self, *arguments, **keywords)
        count[0] += 1
        return found

    native_call = type(pipe).__call__
    become(pipe, _prepare_rotary_positional_embeddings=prepare, __call__=call)


@patch("state_latents_leak")
def latents_leak(pipeline: Pipeline) -> None:
    """A buffer is not cleared: 1 % of the last video's latents is in the next one's noise."""
    pipe = stack(pipeline)
    native = type(pipe).prepare_latents
    native_decode = type(pipe).decode_latents
    kept: list[Tensor] = []

    def prepare(self: Any, *arguments: Any, **keywords: Any) -> Tensor:
        latents = native(self, *arguments, **keywords)
        if kept and kept[0].shape == latents.shape:
            latents = latents + 0.01 * kept[0].to(latents)
        return latents

    def decode(self: Any, latents: Tensor) -> Tensor:
        kept[:] = [latents.detach().clone()]
        return native_decode(self, latents)

    become(pipe, prepare_latents=prepare, decode_latents=decode)


@patch("state_gates_accumulate")
def gates_accumulate(pipeline: Pipeline) -> None:
    """An in-place operation on a parameter: block 2's gates grow by 1 % with every video."""
    pipe = stack(pipeline)
    native = type(pipe).__call__

    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        found = native(self, *arguments, **keywords)
        linear = blocks(pipeline)[2].norm1.linear
        with torch.no_grad():
            size = len(linear.bias) // 6
            linear.weight[2 * size : 3 * size] *= 1.01
            linear.bias[2 * size : 3 * size] *= 1.01
        return found

    become(pipe, __call__=call)


@patch("state_scaling_applied_twice")
def scaling_applied_twice(pipeline: Pipeline) -> None:
    """After the first video the VAE's factor has been folded in once more."""
    pipe = stack(pipeline)
    native = type(pipe).__call__

    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        found = native(self, *arguments, **keywords)
        self.vae_scaling_factor_image = self.vae.config.scaling_factor**2
        return found

    become(pipe, __call__=call)
