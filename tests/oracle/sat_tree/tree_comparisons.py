"""The built-in `sat` backend beside CogVideo's own code: the same model, case, noise and inputs.

Every comparison yields (what, largest absolute difference, relative L2 difference), the worst over
all steps where there are several.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "contract"))
sys.path.insert(0, str(Path(__file__).parents[2] / "checkpoints"))

from contract_driving import Driven, case, native
from tiny_pipelines import save_pipeline

from backends.base import Inputs, Pipeline
from backends.micro import MODELS, model_path
from backends.noise import NoiseTape
from backends.sat.adapter import SatBackend

Figure = tuple[str, float, float]


SIZES = {"micro": {"height": 64, "width": 64}, "tiny": {"height": 48, "width": 64}}


@dataclass(frozen=True)
class Kind:
    """A model in one precision: `micro-...` is embedded, `tiny-...` has random weights."""

    model: str
    dtype: str = "float32"
    first_frame: str = "upstream"

    def __str__(self) -> str:
        lone = ["lone-first-frame"] if self.first_frame == "single" else []
        return "-".join([self.model, self.dtype, *lone])

    @property
    def generation(self) -> str:
        return "1.5" if "1.5" in self.model else "1.0"

    @property
    def changes(self) -> dict[str, Any]:
        """What a case of this model needs."""
        image = {"image": "micro:red-circle.png"} if "i2v" in self.model else {}
        return SIZES[self.model.partition("-")[0]] | image

    def source(self, work: Path) -> str:
        """The model's name or folder; a random one is written to `work`."""
        family, _, name = self.model.partition("-")
        return self.model if family == "micro" else str(save_pipeline(work / "it", name, 0.1))

    @property
    def is_here(self) -> bool:
        return self.model not in MODELS or model_path(self.model).is_dir()


KINDS = [
    Kind("micro-2b"),
    Kind("micro-5b"),
    Kind("micro-5b", "bfloat16"),
    Kind("micro-5b-i2v"),
    Kind("tiny-5b-i2v"),
    Kind("tiny-5b-i2v", "bfloat16"),
    Kind("micro-1.5-5b"),
    Kind("micro-1.5-5b-i2v"),
    Kind("tiny-1.5"),
    Kind("tiny-1.5", first_frame="single"),
    Kind("tiny-1.5-i2v"),
    Kind("tiny-1.5-i2v", "bfloat16"),
]


def kinds_of(generation: str) -> list[Kind]:
    """The kinds that code of `generation` renders and that are here."""
    return [kind for kind in KINDS if kind.generation == generation and kind.is_here]


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
    backend = SatBackend()
    options = {"device": "cpu", "dtype": kind.dtype, "first_frame": kind.first_frame}
    with TemporaryDirectory() as work:
        model = kind.source(Path(work))
        return backend.open(model, options), backend.open(model, options | {"repo": repo})


def compare(kind: Kind, own: Pipeline, theirs: Pipeline) -> Iterator[Figure]:
    """Text, schedule, every step's velocity and latents, and the frames of native runs."""
    own_run, run = (p.prepare(case(64, **kind.changes), Inputs()) for p in (own, theirs))
    with torch.no_grad():
        yield figure("text", own_run.text, run.text)
        yield figure("unconditional text", own_run.negative_text, run.negative_text)
        pictures = [r.encode_image(NoiseTape(0)) for r in (own_run, run)]
        if pictures[0] is not None and pictures[1] is not None:
            yield figure("picture's latents", pictures[0], pictures[1])
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
        image_scale=0.5,
    )


def _crossed(own: Pipeline, theirs: Pipeline, what: Any) -> tuple[Tensor, Tensor]:
    """Final latents when velocities alone cross over, from the built-in transformer to CogVideo's
    solver, and those of CogVideo's own run."""
    first, second = own.prepare(what, Inputs()), theirs.prepare(what, Inputs())
    first.encode_image(NoiseTape(0))
    tape = NoiseTape(0)
    second.encode_image(tape)
    latents = second.initial_latents(tape)
    for index in range(what.steps):
        prediction = replace(first.predict(latents, index), native=None)
        latents = second.step(latents, prediction, index, tape)
    return latents, native(theirs, what).steps[-1].result
