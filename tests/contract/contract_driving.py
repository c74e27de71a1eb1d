"""Drive a pipeline both ways: the native run, and the stages by hand."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from backends.base import Case, Inputs, Pipeline, Prediction
from backends.noise import NoiseTape


def case(size: int, **changes: Any) -> Case:
    """A small case of `size` x `size` pixels on the micro models."""
    settings: dict[str, Any] = {
        "name": "tiny",
        "model": "micro-2b",
        "prompt": "a red circle moving left on a white background",
        "negative_prompt": "",
        "frames": 9,
        "height": size,
        "width": size,
        "steps": 3,
        "guidance_scale": 6.0,
        "dynamic_guidance": False,
        "sampler": "ddim",
        "fps": 8,
    }
    return Case(**(settings | changes))


@dataclass
class Step:
    """One observed solver step."""

    timestep: int
    latents: Tensor
    prediction: Prediction
    result: Tensor


@dataclass
class Driven:
    """What one render gave."""

    tape: NoiseTape
    steps: list[Step] = field(default_factory=list)
    frames: Tensor = field(default_factory=lambda: torch.empty(0))

    def __call__(
        self, step: int, timestep: int, latents: Tensor, prediction: Prediction, result: Tensor
    ) -> None:
        assert step == len(self.steps)
        self.steps.append(Step(timestep, latents, prediction, result))


def native(pipeline: Pipeline, what: Case, inputs: Inputs | None = None, seed: int = 0) -> Driven:
    """The stack's own loop."""
    driven = Driven(NoiseTape(seed))
    driven.frames = pipeline.render(what, inputs or Inputs(), driven.tape, driven)
    return driven


def staged(pipeline: Pipeline, what: Case, inputs: Inputs | None = None, seed: int = 0) -> Driven:
    """The same render, stage by stage."""
    driven = Driven(NoiseTape(seed))
    run = pipeline.prepare(what, inputs or Inputs())
    run.encode_image(driven.tape)
    latents = run.initial_latents(driven.tape)
    for index in range(what.solver_steps):
        prediction = run.predict(latents, index)
        result = run.step(latents, prediction, index, driven.tape)
        driven(index, run.schedule.timesteps[index], latents, prediction, result)
        latents = result
    driven.frames = run.decode(latents)
    return driven


def assert_same(first: Driven, second: Driven) -> None:
    """Every tensor of both renders is equal to the bit."""
    assert len(first.steps) == len(second.steps)
    for index, (a, b) in enumerate(zip(first.steps, second.steps, strict=True)):
        assert a.timestep == b.timestep
        assert a.prediction.guidance_scale == b.prediction.guidance_scale
        for name, left, right in (
            ("latents", a.latents, b.latents),
            ("branches", a.prediction.branches, b.prediction.branches),
            ("velocity", a.prediction.velocity, b.prediction.velocity),
            ("result", a.result, b.result),
        ):
            assert left.dtype == right.dtype, f"{name} of step {index}"
            assert torch.equal(left, right), f"{name} of step {index} differ"
    assert torch.equal(first.frames, second.frames), "frames differ"
    assert first.tape.digest == second.tape.digest
