"""The built-in `sat` backend beside CogVideo's own code: the same model, case, noise and inputs.

Every comparison yields (what, largest absolute difference, relative L2 difference), the worst over
all steps where there are several.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "contract"))

from contract_driving import Driven, case, native, staged

from backends.base import Inputs, Pipeline
from backends.noise import NoiseTape
from backends.sat.adapter import SatBackend

Figure = tuple[str, float, float]


@dataclass(frozen=True)
class Kind:
    """One model in one precision, and the case changes that it needs."""

    model: str
    dtype: str
    changes: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.model}-{self.dtype}"


KINDS = [
    Kind("micro-2b", "float32"),
    Kind("micro-5b", "float32"),
    Kind("micro-5b", "bfloat16"),
]

SAMPLERS: dict[str, dict[str, Any]] = {
    "ddim": {"sampler": "ddim", "steps": 4},
    "dpm dynamic": {"sampler": "dpm", "steps": 5, "dynamic_guidance": True},
}


def figure(what: str, own: Tensor, reference: Tensor) -> Figure:
    """Compare two tensors; shapes and dtypes must agree."""
    assert own.shape == reference.shape, f"{what}: {own.shape} is not {reference.shape}"
    assert own.dtype == reference.dtype, f"{what}: {own.dtype} is not {reference.dtype}"
    gap, size = (own.double() - reference.double()), reference.double().norm().item()
    return what, gap.abs().max().item(), gap.norm().item() / size if size else gap.norm().item()


def worst(what: str, pairs: list[tuple[Tensor, Tensor]]) -> Figure:
    """The largest of several comparisons."""
    found = [figure(what, *pair) for pair in pairs]
    return what, max(f[1] for f in found), max(f[2] for f in found)


def open_both(repo: str, kind: Kind) -> tuple[Pipeline, Pipeline]:
    """The built-in backend's pipeline and CogVideo's."""
    backend, options = SatBackend(), {"device": "cpu", "dtype": kind.dtype}
    return backend.open(kind.model, options), backend.open(kind.model, options | {"repo": repo})


def compare(kind: Kind, own: Pipeline, theirs: Pipeline) -> Iterator[Figure]:
    """Text, schedule, every step's velocity and latents, and the frames of native runs."""
    own_run, run = (p.prepare(case(64, **kind.changes), Inputs()) for p in (own, theirs))
    with torch.no_grad():
        yield figure("text", own_run.text, run.text)
        yield figure("unconditional text", own_run.negative_text, run.negative_text)
        for name, changes in SAMPLERS.items():
            what = case(64, **(kind.changes | changes))
            both = [native(pipeline, what) for pipeline in (own, theirs)]
            yield from _compare(name, *both)
            # What another stack would hand over: another table, noise level by level, in bfloat16.
            inputs = _foreign(own.prepare(what, Inputs()))
            both = [native(pipeline, what, inputs) for pipeline in (own, theirs)]
            yield from _compare(f"{name}, shared inputs", *both)
            mixed = _crossed(own, theirs, what)
            yield figure(f"{name}, own predictions in CogVideo's solver", *mixed)


def schedules_agree(own: Pipeline, theirs: Pipeline, kind: Kind) -> bool:
    """Whether both make the same table, denoiser's levels included, for several step counts."""
    cases = [case(64, **(kind.changes | {"steps": n})) for n in (2, 3, 20, 50)]
    return all(
        own.prepare(c, Inputs()).schedule == theirs.prepare(c, Inputs()).schedule for c in cases
    )


def _compare(name: str, own: Driven, theirs: Driven) -> Iterator[Figure]:
    assert len(own.steps) == len(theirs.steps)
    assert own.tape.digest == theirs.tape.digest, f"{name}: other noise"
    pairs = list(zip(own.steps, theirs.steps, strict=True))
    for a, b in pairs:
        assert a.timestep == b.timestep
        assert a.prediction.guidance_scale == b.prediction.guidance_scale
    yield worst(f"{name}, raw outputs of {len(pairs)} steps",
                [(a.prediction.branches, b.prediction.branches) for a, b in pairs])  # fmt: skip
    yield worst(f"{name}, velocity", [(a.prediction.velocity, b.prediction.velocity)
                                      for a, b in pairs])  # fmt: skip
    yield worst(f"{name}, latents", [(a.result, b.result) for a, b in pairs])
    yield figure(f"{name}, frames", own.frames, theirs.frames)


def _foreign(run: Any) -> Inputs:
    draw = torch.Generator().manual_seed(0)
    table = run.schedule
    return Inputs(
        text=torch.randn(run.text.shape, generator=draw),
        negative_text=torch.randn(run.text.shape, generator=draw),
        schedule=type(table)(
            timesteps=[t - 1 for t in table.timesteps],
            alpha_bar=[min(a * 0.9 + 1e-3, 0.9) for a in table.alpha_bar],
            alpha_bar_next=[min(a * 0.9 + 1e-3, 1.0) for a in table.alpha_bar_next],
        ),
        latent_dtype="bfloat16",
    )


def _crossed(own: Pipeline, theirs: Pipeline, what: Any) -> tuple[Tensor, Tensor]:
    """Velocities alone cross over: the built-in transformer drives CogVideo's solver."""
    first, second = own.prepare(what, Inputs()), theirs.prepare(what, Inputs())
    expected = staged(own, what)
    tape = NoiseTape(0)
    latents = second.initial_latents(tape)
    for index in range(what.steps):
        prediction = first.predict(latents, index)
        bare = type(prediction)(
            prediction.velocity, prediction.branches, prediction.guidance_scale, None
        )
        latents = second.step(latents, bare, index, tape)
    return latents, expected.steps[-1].result
