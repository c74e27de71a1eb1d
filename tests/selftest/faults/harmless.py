"""Changes that are no defect: the same mathematics in another order, layout, batch or precision.

A detector that calls one of these a bug raises a false alarm.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from backends.base import Pipeline
from backends.noise import NoiseTape
from backends.worker.patches import patch
from tests.selftest.faults.attention import Processor, attended, install
from tests.selftest.faults.noise import AlteredTape, Place
from tests.selftest.faults.planting import (
    altered,
    become,
    block,
    blocks,
    module,
    on_output,
    overwrite,
    stack,
)


def _roots(pipeline: Pipeline) -> list[Any]:
    """Transformer, VAE and text encoder of either stack."""
    modules = pipeline.modules()
    return [modules[name] for name in ("transformer", "vae", "text_encoder") if name in modules]


@patch("harmless_nothing")
def nothing(pipeline: Pipeline) -> None:
    """The patch seam alone: a hook that gives what it was given, since a patch must act somewhere."""
    on_output(module(pipeline, "transformer"), lambda output: output)


@patch("harmless_attention_rewritten")
def attention_rewritten(pipeline: Pipeline) -> None:
    """The same attention from other code."""
    install(pipeline, Processor())


@patch("harmless_attention_explicit")
def attention_explicit(pipeline: Pipeline) -> None:
    """Attention as two products and a softmax."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        return logits.float().softmax(-1).to(v.dtype) @ v

    install(pipeline, Processor(attend))


@patch("harmless_attention_chunked")
def attention_chunked(pipeline: Pipeline) -> None:
    """Queries in chunks of 17."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.cat([attended(part, k, v) for part in q.split(17, dim=2)], dim=2)

    install(pipeline, Processor(attend))


@patch("harmless_attention_keys_permuted")
def attention_keys_permuted(pipeline: Pipeline) -> None:
    """Keys and values in the reverse order: the sum runs the other way."""
    install(pipeline, Processor(lambda q, k, v: attended(q, k.flip(2), v.flip(2))))


@patch("harmless_attention_float32")
def attention_float32(pipeline: Pipeline) -> None:
    """Attention computed in float32 whatever the run's dtype."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attended(q.float(), k.float(), v.float()).to(v.dtype)

    install(pipeline, Processor(attend))


@patch("harmless_projections_fused")
def projections_fused(pipeline: Pipeline) -> None:
    """Query, key and value from one product."""
    stack(pipeline).fuse_qkv_projections()


@patch("harmless_branches_split")
def branches_split(pipeline: Pipeline) -> None:
    """The guidance branches are computed one after the other."""
    transformer = module(pipeline, "transformer")
    native: Callable[..., Any] = type(transformer).forward

    def diffusers(self: Any, hidden_states: Tensor, **keywords: Any) -> Any:
        text, timestep = keywords.pop("encoder_hidden_states"), keywords.pop("timestep")
        parts = [
            native(
                self,
                hidden_states=hidden_states[i : i + 1],
                encoder_hidden_states=text[i : i + 1],
                timestep=timestep[i : i + 1],
                **keywords,
            )[0]
            for i in range(len(hidden_states))
        ]
        return (torch.cat(parts),)

    def sat(self: Any, latents: Tensor, timesteps: Tensor, text: Tensor, *rest: Any) -> Tensor:
        return torch.cat(
            [
                native(self, latents[i : i + 1], timesteps[i : i + 1], text[i : i + 1], *rest)
                for i in range(len(latents))
            ]
        )

    is_sat = type(stack(pipeline)).__name__ == "SatEngine"
    become(transformer, forward=sat if is_sat else diffusers)


@patch("harmless_weights_not_contiguous")
def weights_not_contiguous(pipeline: Pipeline) -> None:
    """Every matrix of the transformer is stored column by column."""
    for parameter in module(pipeline, "transformer").parameters():
        if parameter.dim() == 2:
            parameter.data = parameter.data.t().contiguous().t()


@patch("harmless_channels_last")
def channels_last(pipeline: Pipeline) -> None:
    """The VAE in the channels-last memory format."""
    for layer in module(pipeline, "vae").modules():
        if isinstance(layer, nn.Conv3d):  # the 2D convolutions of its samplers cannot be asked
            layer.to(memory_format=torch.channels_last_3d)


@patch("harmless_saved_and_loaded")
def saved_and_loaded(pipeline: Pipeline) -> Pipeline:
    """All weights written to safetensors files and read again.

    Returned as another pipeline: equal weights alone would count as a patch that changed nothing."""
    from safetensors.torch import load_file, save_file

    with tempfile.TemporaryDirectory() as folder:
        for index, root in enumerate(_roots(pipeline)):
            named = {
                name: value
                for name, value in root.named_parameters()
                if value.device.type != "meta"
            }
            file = Path(folder) / f"{index}.safetensors"
            save_file({n: v.detach().clone().contiguous() for n, v in named.items()}, str(file))
            for name, value in load_file(str(file)).items():
                overwrite(named[name], value)
    return altered(pipeline)


@patch("harmless_weights_moved")
def weights_moved(pipeline: Pipeline) -> None:
    """Every tensor lies elsewhere in memory, at an odd offset."""
    for root in _roots(pipeline):
        for parameter in root.parameters():
            room = parameter.data.new_empty(parameter.numel() + 1)
            place = room[1:].view(parameter.shape)
            place.copy_(parameter.data)
            parameter.data = place


@patch("harmless_inner_sum_split")
def inner_sum_split(pipeline: Pipeline) -> None:
    """The feed-forwards' second product is summed in two halves, as a split-K kernel does."""

    def forward(self: Any, x: Tensor) -> Tensor:
        half = self.in_features // 2
        first = F.linear(x[..., :half], self.weight[:, :half], self.bias)
        return first + F.linear(x[..., half:], self.weight[:, half:])

    for each in blocks(pipeline):
        become(each.ff.net[2], forward=forward)


def _jitter(generator: torch.Generator, x: Tensor) -> Tensor:
    """x <- cast(x + U(-1/2, 1/2) ulp(x)): a rounding that goes either way."""
    bits = {torch.bfloat16: 7, torch.float16: 10, torch.float32: 23}[x.dtype]
    wide = x.double()
    ulp = torch.exp2(torch.floor(torch.log2(wide.abs().clamp_min(1e-30))) - bits)
    shift = torch.rand(x.shape, generator=generator, dtype=torch.float64) - 0.5
    return (wide + shift.to(x.device) * ulp).to(x.dtype)


@patch("harmless_jitter")
def jitter(pipeline: Pipeline) -> None:
    """Half an ulp of noise on what every block gives."""
    generator = torch.Generator().manual_seed(1)
    for each in blocks(pipeline):
        on_output(each, lambda out: tuple(_jitter(generator, part) for part in out))


@patch("harmless_decoder_jitter")
def decoder_jitter(pipeline: Pipeline) -> None:
    """Half an ulp of noise on what the decoder's convolutions give."""
    generator = torch.Generator().manual_seed(2)
    for layer in module(pipeline, "vae.decoder").modules():
        if isinstance(layer, nn.Conv3d):
            on_output(layer, lambda out: _jitter(generator, out))


@patch("harmless_text_jitter")
def text_jitter(pipeline: Pipeline) -> None:
    """Half an ulp of noise on what T5's linear layers give."""
    generator = torch.Generator().manual_seed(3)
    for layer in module(pipeline, "text_encoder").modules():
        if isinstance(layer, nn.Linear):
            on_output(layer, lambda out: _jitter(generator, out))


@patch("harmless_noise_one_ulp")
def noise_one_ulp(pipeline: Pipeline) -> Pipeline:
    """The initial noise is one float32 ulp larger."""

    def change(place: Place, drawn: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.nextafter(drawn, np.float32(np.inf)) if place.initial else drawn

    def tape(inner: NoiseTape) -> NoiseTape:
        return AlteredTape(inner, change)

    return altered(pipeline, tape=tape)


@patch("harmless_eta")
def eta(pipeline: Pipeline) -> None:
    """The pipeline is called with an eta, which CogVideoX's schedulers ignore."""
    pipe = stack(pipeline)
    native = type(pipe).__call__

    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        return native(self, *arguments, eta=0.5, **keywords)

    become(pipe, __call__=call)


@patch("harmless_norm_out_swapped")
def norm_out_swapped(pipeline: Pipeline) -> None:
    """The last norm's halves are stored in the other order, with code to match."""
    linear = module(pipeline, "transformer.norm_out.linear")
    for value in (linear.weight, linear.bias):
        overwrite(value, torch.cat(value.chunk(2)[::-1]).clone())
    on_output(linear, lambda out: torch.cat(out.chunk(2, dim=1)[::-1], dim=1))


@patch("harmless_last_norm_epsilon")
def last_norm_epsilon(pipeline: Pipeline) -> None:
    """The last norm has SAT's eps, 1e-6."""
    module(pipeline, "transformer.norm_out").norm.eps = 1e-6


@patch("harmless_padding_moved")
def padding_moved(pipeline: Pipeline) -> None:
    """The decoder pads before its convolutions, not in them."""

    def forward(self: Any, inputs: Tensor) -> Tensor:
        time, height, width = self.padding
        padded = F.pad(inputs, (width, width, height, height, time, time))
        return F.conv3d(padded, self.weight, self.bias, self.stride, 0, self.dilation)

    for layer in module(pipeline, "vae.decoder").modules():
        if isinstance(layer, nn.Conv3d):
            become(layer, forward=forward)


@patch("harmless_block_upcast")
def block_upcast(pipeline: Pipeline) -> None:
    """The linear layers of block 2 sum in float64."""

    def forward(self: Any, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.double()
        return F.linear(x.double(), self.weight.double(), bias).to(x.dtype)

    for layer in block(pipeline, 2).modules():
        if isinstance(layer, nn.Linear):
            become(layer, forward=forward)


@patch("harmless_text_batched")
def text_batched(pipeline: Pipeline) -> None:
    """Every prompt is encoded in a batch with an empty one."""
    pipe = stack(pipeline)
    native = type(pipe)._get_t5_prompt_embeds

    def encode(self: Any, prompt: Any = None, *arguments: Any, **keywords: Any) -> Tensor:
        words = [prompt] if isinstance(prompt, str) else list(prompt)
        return native(self, [*words, ""], *arguments, **keywords)[: len(words)]

    become(pipe, _get_t5_prompt_embeds=encode)


@patch("harmless_tokenizer_slow")
def tokenizer_slow(pipeline: Pipeline) -> None:
    """The tokenizer in its other implementation."""
    from transformers import AutoTokenizer

    pipe = stack(pipeline)
    loaded: Any = AutoTokenizer
    pipe.tokenizer = loaded.from_pretrained(
        pipe.tokenizer.name_or_path, use_fast=False, local_files_only=True
    )


@patch("harmless_rotary_float64")
def rotary_float64(pipeline: Pipeline) -> None:
    """Rotation in float64, rounded once."""

    def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        cos, sin = (table[None, None].double() for table in rotary)
        real, imaginary = x.double().unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack((-imaginary, real), dim=-1).flatten(3)
        return (x.double() * cos + turned * sin).to(x.dtype)

    install(pipeline, Processor(rotate_query=rotate, rotate_key=rotate))


@patch("harmless_kernels_vary")
def kernels_vary(pipeline: Pipeline) -> None:
    """Every linear layer of the transformer and every 3D convolution of the decoder sums in another
    order at each call, as kernels with atomic additions do: half an ulp, never the same twice."""
    generator = torch.Generator()
    generator.seed()

    def vary(out: Any) -> Any:
        if not isinstance(out, Tensor) or not out.is_floating_point():
            return out
        drawn = torch.rand(out.shape, generator=generator, dtype=torch.float32).to(out.device)
        return (out.double() * (1 + (drawn - 0.5) * torch.finfo(out.dtype).eps)).to(out.dtype)

    for name, kind in (("transformer", nn.Linear), ("vae", nn.Conv3d)):
        for layer in module(pipeline, name).modules():
            if isinstance(layer, kind):
                on_output(layer, vary)


def _sinusoid(self: Any, angles: Tensor) -> Tensor:
    parts = [angles.cos(), angles.sin()] if self.flip_sin_to_cos else [angles.sin(), angles.cos()]
    return torch.cat(parts, dim=-1)


def _frequencies(self: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    half = self.num_channels // 2
    steps = torch.arange(half, dtype=dtype, device=device) / (half - self.downscale_freq_shift)
    return torch.exp(-math.log(10000) * steps)


@patch("harmless_sinusoid_float64")
def sinusoid_float64(pipeline: Pipeline) -> None:
    """The sinusoid of the timestep in float64, rounded once: more exact than upstream's float32."""

    def forward(self: Any, timesteps: Tensor) -> Tensor:
        frequencies = _frequencies(self, torch.float64, timesteps.device)
        return _sinusoid(self, timesteps[:, None].double() * frequencies).float()

    become(module(pipeline, "transformer.time_proj"), forward=forward)


@patch("harmless_sinusoid_rough")
def sinusoid_rough(pipeline: Pipeline) -> None:
    """The same sinusoid by a float32 formula that cancels: right in exact arithmetic, its angles off by
    up to 1e-3. As the reference of a pair it is what a more exact candidate is held against."""
    far = 8192.0

    def forward(self: Any, timesteps: Tensor) -> Tensor:
        frequencies = _frequencies(self, torch.float32, timesteps.device)
        angles = (timesteps[:, None].float() + far) * frequencies - far * frequencies
        return _sinusoid(self, angles)

    become(module(pipeline, "transformer.time_proj"), forward=forward)
