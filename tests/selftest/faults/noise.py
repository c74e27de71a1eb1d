"""Defects in the noise: the tape is right and records what it gave; the stack uses something else."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.base import Pipeline
from backends.noise import NoiseTape, Stage, standard_normal
from backends.worker.patches import patch
from tests.selftest.faults.planting import altered, stack

Values = NDArray[np.float32]
Change = Callable[["Place", Values], Values]


class Place:
    """Which draw it is: `index` counts the draws of a step, `seed` is the tape's."""

    def __init__(self, seed: int, stage: str, step: int, index: int) -> None:
        self.seed, self.stage, self.step, self.index = seed, stage, step, index

    @property
    def initial(self) -> bool:
        """Whether it is the initial latents."""
        return self.stage == "initial"

    def other(
        self, shape: Sequence[int], *, seed: int = 0, step: int = 0, index: int = 0
    ) -> Values:
        """The draw `seed` seeds, `step` steps and `index` draws further on."""
        code = {"initial": 0, "step": 1, "image": 2}[self.stage]
        slot = (code << 48) | ((self.step + step) << 16) | (self.index + index)
        return standard_normal(self.seed + seed, slot, shape)


class AlteredTape(NoiseTape):
    """Passes every draw of `inner` through `change`."""

    def __init__(self, inner: NoiseTape, change: Change) -> None:
        self._inner, self._change = inner, change
        self._where = Place(inner.seed, "initial", 0, 0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @contextmanager
    def stage(
        self, stage: Stage, step: int, fewest: int, most: int, shape: Sequence[int] | None
    ) -> Generator[None]:
        self._where = Place(self._inner.seed, stage, step, 0)
        with self._inner.stage(stage, step, fewest, most, shape):
            yield

    def draw(self, shape: Sequence[int], generator: str | None = None) -> Values:
        drawn, place = self._inner.draw(shape, generator), self._where
        self._where = Place(place.seed, place.stage, place.step, place.index + 1)
        return np.ascontiguousarray(self._change(place, drawn), dtype=np.float32)

    @property
    def digest(self) -> str:
        return self._inner.digest


def noise_fault(name: str) -> Callable[[Change], Change]:
    def register(change: Change) -> Change:
        def tape(inner: NoiseTape) -> NoiseTape:
            return AlteredTape(inner, change)

        def plant(pipeline: Pipeline) -> Pipeline:
            return altered(pipeline, tape=tape)

        plant.__module__ = change.__module__  # the plugin that has it
        patch(name)(plant)
        return change

    return register


@noise_fault("noise_other_seed")
def other_seed(place: Place, drawn: Values) -> Values:
    """All noise is that of another seed: a valid video, but not the one asked for."""
    return place.other(drawn.shape, seed=1)


@noise_fault("noise_other_initial")
def other_initial(place: Place, drawn: Values) -> Values:
    """The initial latents are those of another seed: a generator on another device."""
    return place.other(drawn.shape, seed=1) if place.initial else drawn


@noise_fault("noise_one_draw_shifted")
def one_draw_shifted(place: Place, drawn: Values) -> Values:
    """From step 1 on the stream is one step ahead."""
    return drawn if place.initial else place.other(drawn.shape, step=1)


@noise_fault("noise_first_of_two")
def first_of_two(place: Place, drawn: Values) -> Values:
    """The first of a step's two draws is used, the second is never made."""
    return place.other(drawn.shape, index=-1) if place.index == 1 else drawn


@noise_fault("noise_reused")
def reused(place: Place, drawn: Values) -> Values:
    """Every step gets the noise of step 1."""
    return drawn if place.initial else place.other(drawn.shape, step=1 - place.step)


@noise_fault("noise_one_step_foreign")
def one_step_foreign(place: Place, drawn: Values) -> Values:
    """The noise of step 3, and no other, is that of another seed."""
    return place.other(drawn.shape, seed=1) if not place.initial and place.step == 3 else drawn


@noise_fault("noise_weak")
def weak(place: Place, drawn: Values) -> Values:
    """Standard deviation 0.98 in every draw."""
    return drawn * np.float32(0.98)


@noise_fault("noise_bf16")
def bf16(place: Place, drawn: Values) -> Values:
    """Drawn in bfloat16 by a float32 pipeline."""
    import torch

    rounded: Values = torch.from_numpy(drawn).bfloat16().float().numpy()
    return rounded


@noise_fault("noise_frames_reversed")
def frames_reversed(place: Place, drawn: Values) -> Values:
    """Latent frames in the reverse order."""
    return drawn[:, ::-1]


@noise_fault("noise_transposed")
def transposed(place: Place, drawn: Values) -> Values:
    """Rows and columns exchanged."""
    return drawn.swapaxes(-1, -2)


@noise_fault("noise_layout")
def layout(place: Place, drawn: Values) -> Values:
    """Drawn as (C, T) and taken for (T, C)."""
    batch, time, channels, *size = drawn.shape
    return drawn.reshape(batch, channels, time, *size).swapaxes(1, 2)


@noise_fault("noise_frames_equal")
def frames_equal(place: Place, drawn: Values) -> Values:
    """Every latent frame starts from the same noise."""
    return np.broadcast_to(drawn[:, :1], drawn.shape) if place.initial else drawn


@noise_fault("noise_truncated")
def truncated(place: Place, drawn: Values) -> Values:
    """Cut at two standard deviations."""
    return drawn.clip(-2, 2)


@noise_fault("noise_biased")
def biased(place: Place, drawn: Values) -> Values:
    """Mean 0.02."""
    return drawn + np.float32(0.02)


@patch("noise_sigma")
def sigma(pipeline: Pipeline) -> None:
    """The scheduler's initial sigma is 0.98."""
    stack(pipeline).scheduler.init_noise_sigma = 0.98
