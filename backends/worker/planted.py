"""Faults that `parity selftest` plants around the stage contract, on whatever stack and model.

Each alters one stage of `Run`; the native run is then the stages driven in order, which gives a clean
pipeline's native bits (`tests/contract`), so that a fault of a stage is in the native run, too, as a
real one would be. Faults of the frames are in the native run alone, as what follows decoding is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from backends.base import Case, Identity, Inputs, Pipeline, Policies, Prediction, Run, StepObserver
from backends.errors import Unsupported
from backends.noise import NoiseTape
from backends.worker.patches import patch


class PipelineAround:
    """`inner`, for subclasses that alter what it prepares and renders: the rest of `Pipeline`."""

    def __init__(self, inner: Pipeline) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def identity(self) -> Identity:
        return self._inner.identity()

    def policies(self) -> Policies:
        return self._inner.policies()

    def modules(self) -> Mapping[str, nn.Module]:
        return self._inner.modules()

    def native(self) -> object:
        return self._inner.native()

    def close(self) -> None:
        self._inner.close()


def _frames_unchanged(frames: Tensor) -> Tensor:
    return frames


class _PlantedPipeline(PipelineAround):
    def __init__(
        self,
        inner: Pipeline,
        faulty: type[PlantedRun],
        frames: Callable[[Tensor], Tensor] = _frames_unchanged,
    ) -> None:
        super().__init__(inner)
        self._faulty, self._frames = faulty, frames

    def prepare(self, case: Case, inputs: Inputs) -> Run:
        return cast(Run, self._faulty(self._inner, case, inputs))

    def render(self, case: Case, inputs: Inputs, tape: NoiseTape, observe: StepObserver) -> Tensor:
        run = self.prepare(case, inputs)
        run.encode_image(tape)
        latents = run.initial_latents(tape)
        for step, timestep in enumerate(run.schedule.timesteps):
            prediction = run.predict(latents, step)
            result = run.step(latents, prediction, step, tape)
            observe(step, timestep, latents, prediction, result)
            latents = result
        return self._frames(run.decode(latents))


class PlantedRun:
    """A run without a fault, of which each subclass alters one stage."""

    def __init__(self, pipeline: Pipeline, case: Case, inputs: Inputs) -> None:
        self._run = pipeline.prepare(case, self.inputs(pipeline, case, inputs))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    def inputs(self, pipeline: Pipeline, case: Case, inputs: Inputs) -> Inputs:
        """What the run is prepared with."""
        return inputs

    def initial_latents(self, tape: NoiseTape) -> Tensor:
        return self._run.initial_latents(tape)

    def predict(self, latents: Tensor, step: int) -> Prediction:
        return self._run.predict(latents, step)

    def step(self, latents: Tensor, prediction: Prediction, step: int, tape: NoiseTape) -> Tensor:
        return self._run.step(latents, prediction, step, tape)

    def decode(self, latents: Tensor) -> Tensor:
        return self._run.decode(latents)

    def with_velocity(
        self, found: Prediction, velocity: Tensor, latents: Tensor, step: int
    ) -> Prediction:
        """`found` with another velocity, and the clean sample that follows where that is guided."""
        native = found.native
        if native is not None:
            table = self._run.schedule
            level = (table.alpha_bar_clean or table.alpha_bar)[step]
            change = (1 - level) ** 0.5 * (velocity - found.velocity)
            native = native - change.to(native)
        return replace(found, velocity=velocity, native=native)


def _stage(name: str) -> Callable[[type[PlantedRun]], type[PlantedRun]]:
    def register(run: type[PlantedRun]) -> type[PlantedRun]:
        def plant(pipeline: Pipeline) -> Pipeline:
            return _PlantedPipeline(pipeline, run)

        patch(f"selftest_{name}")(plant)
        return run

    return register


def _after_decoding(name: str) -> Callable[[Callable[[Tensor], Tensor]], Callable[..., Tensor]]:
    def register(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def plant(pipeline: Pipeline) -> Pipeline:
            return _PlantedPipeline(pipeline, PlantedRun, change)

        patch(f"selftest_{name}")(plant)
        return change

    return register


@_stage("control")
class _Control(PlantedRun):
    """No fault."""


@_stage("denoiser_gain")
class _DenoiserGain(PlantedRun):
    def predict(self, latents: Tensor, step: int) -> Prediction:
        found = self._run.predict(latents, step)
        larger = replace(found, branches=found.branches * 1.01)
        return self.with_velocity(larger, found.velocity * 1.01, latents, step)


@_stage("branches_swapped")
class _BranchesSwapped(PlantedRun):
    def predict(self, latents: Tensor, step: int) -> Prediction:
        found = self._run.predict(latents, step)
        unconditional, conditional = _branches(found)
        wrong = conditional + found.guidance_scale * (unconditional - conditional)
        return self.with_velocity(found, wrong.to(found.velocity), latents, step)


@_stage("guidance_too_strong")
class _GuidanceTooStrong(PlantedRun):
    def predict(self, latents: Tensor, step: int) -> Prediction:
        found = self._run.predict(latents, step)
        unconditional, conditional = _branches(found)
        further = 0.05 * found.guidance_scale * (conditional - unconditional)
        return self.with_velocity(found, found.velocity + further.to(found.velocity), latents, step)


def _branches(found: Prediction) -> tuple[Tensor, Tensor]:
    """Both raw outputs. Raises `Unsupported` without guidance, where there is nothing to get wrong."""
    if len(found.branches) != 2:
        raise Unsupported("the case runs without guidance, so there are no two branches")
    unconditional, conditional = found.branches.float().chunk(2)
    return unconditional, conditional


@_stage("timestep_late")
class _TimestepLate(PlantedRun):
    def predict(self, latents: Tensor, step: int) -> Prediction:
        return self._run.predict(latents, max(step - 1, 0))


@_stage("prompt_lost")
class _PromptLost(PlantedRun):
    def inputs(self, pipeline: Pipeline, case: Case, inputs: Inputs) -> Inputs:
        empty = pipeline.prepare(replace(case, prompt=""), Inputs())
        return replace(inputs, text=empty.text)


@_stage("noise_foreign")
class _NoiseForeign(PlantedRun):
    def initial_latents(self, tape: NoiseTape) -> Tensor:
        self._run.initial_latents(tape)
        return self._run.initial_latents(NoiseTape(tape.seed + 1))


@_stage("latents_bfloat16")
class _LatentsBfloat16(PlantedRun):
    def step(self, latents: Tensor, prediction: Prediction, step: int, tape: NoiseTape) -> Tensor:
        result = self._run.step(latents, prediction, step, tape)
        return result.bfloat16().to(result.dtype)


@_stage("last_step_missing")
class _LastStepMissing(PlantedRun):
    def step(self, latents: Tensor, prediction: Prediction, step: int, tape: NoiseTape) -> Tensor:
        result = self._run.step(latents, prediction, step, tape)
        last = step == len(self._run.schedule.timesteps) - 1
        return latents.to(result.dtype).clone() if last else result


@_stage("decoder_scaled")
class _DecoderScaled(PlantedRun):
    def decode(self, latents: Tensor) -> Tensor:
        return self._run.decode(latents * 1.05)


@_stage("frame_repeated")
class _FrameRepeated(PlantedRun):
    def decode(self, latents: Tensor) -> Tensor:
        frames = self._run.decode(latents).clone()
        middle = len(frames) // 2
        frames[middle] = frames[max(middle - 1, 0)]
        return frames


@_after_decoding("frames_brighter")
def _brighter(frames: Tensor) -> Tensor:
    return (frames + 3 / 255).clamp(0, 1)


@_after_decoding("channels_swapped")
def _channels_swapped(frames: Tensor) -> Tensor:
    return torch.flip(frames, (-1,))
