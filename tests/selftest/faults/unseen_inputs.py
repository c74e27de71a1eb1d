"""The adversary's defects in what a model is given: words, noise, picture.

Invented against the finished detector, after the issue threads of diffusers, CogVideo and the engines
around them; many show only under a condition: a long prompt, a large seed, a longer video.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backends.base import Pipeline
from backends.noise import draw_slot, standard_normal
from backends.worker.patches import patch
from tests.selftest.faults.conditioning import on_pixels
from tests.selftest.faults.noise import Place, Values, noise_fault
from tests.selftest.faults.planting import become, exchange, module, on_input, on_output, stack
from tests.selftest.faults.text import on_embeddings, on_tokens


def _words(pipeline: Pipeline, change: Callable[[str], str]) -> None:
    """Let `change` replace every prompt before it is encoded."""
    pipe = stack(pipeline)
    native = type(pipe)._get_t5_prompt_embeds

    def encode(self: Any, prompt: Any = None, *arguments: Any, **keywords: Any) -> Tensor:
        words = [prompt] if isinstance(prompt, str) else list(prompt)
        return native(self, [change(each) for each in words], *arguments, **keywords)

    become(pipe, _get_t5_prompt_embeds=encode)


@patch("unseen_text_lowercased")
def text_lowercased(pipeline: Pipeline) -> None:
    """Prompts are put in lower case, as caption cleaning does. Shows with capitals only."""
    _words(pipeline, str.lower)


@patch("unseen_text_ascii_only")
def text_ascii_only(pipeline: Pipeline) -> None:
    """What is not ASCII is dropped. Shows with such a prompt only."""
    _words(pipeline, lambda words: words.encode("ascii", "ignore").decode())


@patch("unseen_text_long_prompt_loses_end")
def text_long_prompt_loses_end(pipeline: Pipeline) -> None:
    """A prompt that is cut loses its end token, too. Shows with long prompts only."""

    def change(ids: Tensor) -> Tensor:
        ids = ids.clone()
        cut = ids[:, -1] == 1
        ids[cut, -1] = ids[cut, -2]
        return ids

    on_tokens(pipeline, change)


@patch("unseen_text_negative_cut_to_prompt")
def text_negative_cut_to_prompt(pipeline: Pipeline) -> None:
    """The native loop cuts the negative prompt to the prompt's number of words."""
    pipe = stack(pipeline)
    native = type(pipe).__call__

    def call(self: Any, prompt: Any = None, negative_prompt: Any = None, **keywords: Any) -> Any:
        if prompt and negative_prompt:
            negative_prompt = " ".join(negative_prompt.split()[: len(prompt.split())])
        return native(self, prompt, negative_prompt, **keywords)

    become(pipe, __call__=call)


@patch("unseen_text_brackets_weighted")
def text_brackets_weighted(pipeline: Pipeline) -> None:
    """Words in brackets get embeddings 1.1 times as large: a user interface's syntax, left on."""
    tokenizer = stack(pipeline).tokenizer

    def change(words: list[str], found: Tensor) -> Tensor:
        start, bracket, _ = words[0].partition("(")
        if not bracket:
            return found
        inside = words[0][: words[0].find(")")]
        first, last = (len(tokenizer(part).input_ids) - 1 for part in (start, inside))
        found = found.clone()
        found[:, first:last] *= 1.1
        return found

    on_embeddings(pipeline, change)


@patch("unseen_text_attention_scaled")
def text_attention_scaled(pipeline: Pipeline) -> None:
    """T5's logits are divided by sqrt(d), as everywhere but in T5."""
    size = float(stack(pipeline).text_encoder.config.d_kv) ** -0.5
    for name in list(pipeline.modules()):
        if name.startswith("text_encoder") and name.endswith("SelfAttention.q"):
            on_output(module(pipeline, name), lambda query: query * size)


@patch("unseen_text_gate_swapped")
def text_gate_swapped(pipeline: Pipeline) -> None:
    """The two input projections of one gated feed-forward of T5 exchanged."""
    dense = module(pipeline, "text_encoder.encoder.block.0.layer.1.DenseReluDense")
    exchange(dense.wi_0.weight, dense.wi_1.weight)


@noise_fault("unseen_noise_seed_32_bits")
def noise_seed_32_bits(place: Place, drawn: Values) -> Values:
    """A seed is cut to 32 bits. Shows with larger seeds only."""
    return place.other(drawn.shape, seed=(place.seed % 2**32) - place.seed)


@noise_fault("unseen_noise_initial_again")
def noise_initial_again(place: Place, drawn: Values) -> Values:
    """The generator is seeded again before the solver: its first used draw is the initial latents'."""
    if place.initial or place.step != 1:
        return drawn
    return standard_normal(place.seed, draw_slot("initial", 0, 0), drawn.shape)


@noise_fault("unseen_noise_repeats_after_four_frames")
def noise_repeats_after_four_frames(place: Place, drawn: Values) -> Values:
    """From the fifth latent frame on the initial noise repeats. Shows in longer videos only."""
    drawn = drawn.copy()
    if place.initial:
        drawn[:, 4:8] = drawn[:, : max(drawn.shape[1] - 4, 0)][:, :4]
    return drawn


@noise_fault("unseen_noise_low_frequencies_shared")
def noise_low_frequencies_shared(place: Place, drawn: Values) -> Values:
    """A noise initialiser left on: every frame's mean is that of all frames."""
    if not place.initial:
        return drawn
    means = drawn.mean(axis=(-1, -2), keepdims=True)
    return drawn - means + means.mean(axis=1, keepdims=True)


@noise_fault("unseen_noise_of_picture_foreign")
def noise_of_picture_foreign(place: Place, drawn: Values) -> Values:
    """The picture's posterior is sampled with another seed's noise."""
    return place.other(drawn.shape, seed=1) if place.stage == "image" else drawn


@patch("unseen_image_linear_light")
def image_linear_light(pipeline: Pipeline) -> None:
    """The picture is brought to linear light, as loaders of float images do."""
    on_pixels(pipeline, lambda pixels: (pixels / 2 + 0.5).clamp(0, 1) ** 2.2 * 2 - 1)


@patch("unseen_image_resized_twice")
def image_resized_twice(pipeline: Pipeline) -> None:
    """The picture goes through half its size."""

    def change(pixels: Tensor) -> Tensor:
        flat = pixels[:, :, 0]
        small = F.interpolate(flat, scale_factor=0.5, mode="bilinear", antialias=True)
        return F.interpolate(small, size=flat.shape[-2:], mode="bilinear")[:, :, None]

    on_pixels(pipeline, change)


@patch("unseen_image_one_pixel_off")
def image_one_pixel_off(pipeline: Pipeline) -> None:
    """Centre crop rounded the other way: the picture is one pixel further right."""
    on_pixels(pipeline, lambda pixels: pixels.roll(1, dims=-1))


@patch("unseen_image_lost_late")
def image_lost_late(pipeline: Pipeline) -> None:
    """In the second half of the steps the transformer is given an empty picture."""

    def change(arguments: Any, keywords: Any) -> tuple[Any, Any]:
        given: Tensor = keywords["hidden_states"]
        if float(keywords["timestep"].flatten()[0]) >= 500:
            return arguments, keywords
        kept, picture = given.chunk(2, dim=2)
        return arguments, {
            **keywords, "hidden_states": torch.cat((kept, torch.zeros_like(picture)), dim=2)
        }  # fmt: skip

    on_input(module(pipeline, "transformer"), change)
