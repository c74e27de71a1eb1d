"""Faults whose place is easily mistaken, as a plugin of the trust tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor, nn

from backends.base import Pipeline
from backends.noise import draw_slot, standard_normal
from backends.worker.patches import patch
from tests.selftest.faults.noise import Place, Values, noise_fault
from tests.selftest.faults.planting import become, block, module, stack
from tests.selftest.faults.solver import on_step


@noise_fault("step_noise_is_initial")
def step_noise_is_initial(place: Place, drawn: Values) -> Values:
    """The generator is seeded again: step 1 adds the initial latents' draw."""
    if place.initial or place.step != 1:
        return drawn
    return standard_normal(place.seed, draw_slot("initial", 0, 0), drawn.shape)


@noise_fault("step_noise_mixed")
def step_noise_mixed(place: Place, drawn: Values) -> Values:
    """Every step's noise is half the first frame's, of unit variance: a noise prior of a video."""
    return drawn if place.initial else (drawn + drawn[:, :1]) * np.float32(0.5**0.5)


@patch("ddim_own_noise")
def ddim_own_noise(pipeline: Pipeline) -> None:
    """DDIM adds a little noise of a generator of its own in the later steps, as with an eta."""

    def after(_scheduler: Any, given: dict[str, Any], latents: Tensor) -> Tensor:
        at = int(given["timestep"])
        drawn = np.random.default_rng(at).standard_normal(latents.shape)
        return latents + 0.004 * torch.from_numpy(drawn).to(latents) if at < 700 else latents

    on_step(pipeline, after=after)


def _within_the_call(pipeline: Pipeline) -> list[int]:
    """Whose first entry counts calls within the pipeline's own `__call__`; -1 outside."""
    pipe, count = stack(pipeline), [-1]
    native = type(pipe).__call__

    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        count[0] = 0
        try:
            return native(self, *arguments, **keywords)
        finally:
            count[0] = -1

    become(pipe, __call__=call)
    return count


def _in_one_call(
    pipeline: Pipeline, target: nn.Module, change: Callable[[Tensor], Tensor], number: int
) -> None:
    """Alter the weights of `target` in call `number` of every video that the pipeline itself makes."""
    count, kept = _within_the_call(pipeline), list[tuple[nn.Parameter, Tensor]]()

    def before(*_: Any) -> None:
        if count[0] < 0:
            return
        if count[0] == number:
            kept[:] = [(p, p.detach().clone()) for p in target.parameters()]
            for parameter, value in kept:
                parameter.data.copy_(change(value))
        count[0] += 1

    def after(*_: Any) -> None:
        for parameter, value in kept:
            parameter.data.copy_(value)
        kept.clear()

    target.register_forward_pre_hook(before)
    target.register_forward_hook(after, always_call=True)


@patch("first_call_late_cast")
def first_call_late_cast(pipeline: Pipeline) -> None:
    """The output projection is still rounded to float8 in a video's first call."""
    target = module(pipeline, "transformer.proj_out")
    _in_one_call(pipeline, target, lambda w: w.to(torch.float8_e4m3fn).to(w.dtype), 0)


@patch("fourth_call_stale")
def fourth_call_stale(pipeline: Pipeline) -> None:
    """Block 3's feed-forward has old weights in a video's fourth call."""
    _in_one_call(pipeline, block(pipeline, 3).ff, lambda w: w * 0.5, 3)


@patch("cache_takes_all")
def cache_takes_all(pipeline: Pipeline) -> None:
    """First-block caching with a threshold that nothing exceeds: all blocks but one are skipped."""
    config = diffusers.FirstBlockCacheConfig(threshold=1e9)
    stack(pipeline).transformer.enable_cache(config)


@patch("residual_repeated")
def residual_repeated(pipeline: Pipeline) -> None:
    """In two of three calls every block adds again what it added in the call before."""
    for each in stack(pipeline).transformer.transformer_blocks:
        _repeating(each)


def _repeating(target: Any) -> None:
    native, calls, kept = target.forward, [0], list[tuple[Tensor, Tensor]]()

    def forward(
        hidden_states: Tensor, encoder_hidden_states: Tensor, *rest: Any, **keywords: Any
    ) -> Any:
        given = hidden_states, encoder_hidden_states
        calls[0] += 1
        if calls[0] % 3 == 1:
            came = native(*given, *rest, **keywords)
            kept[:] = [(came[0] - given[0], came[1] - given[1])]
            return came
        return given[0] + kept[0][0], given[1] + kept[0][1]

    target.forward = forward


@patch("native_text_shifted")
def native_text_shifted(pipeline: Pipeline) -> None:
    """The pipeline's own call moves its text embeddings by one token."""
    count, pipe = _within_the_call(pipeline), stack(pipeline)
    native = type(pipe).encode_prompt

    def encode(self: Any, *arguments: Any, **keywords: Any) -> Any:
        text, negative = native(self, *arguments, **keywords)
        return (text if count[0] < 0 else text.roll(1, 1)), negative

    become(pipe, encode_prompt=encode)


@patch("end_in_the_call")
def end_in_the_call(pipeline: Pipeline) -> None:
    """The configuration says that a video ends clean; the pipeline's own call ends it at level 0."""
    pipe = stack(pipeline)
    native = type(pipe).__call__

    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        self.scheduler.final_alpha_cumprod = self.scheduler.alphas_cumprod[0]
        return native(self, *arguments, **keywords)

    become(pipe, __call__=call)
