"""Prove that planted faults are live: each against the clean pipeline, in float32, in one process.

    python -m tests.selftest.liveness            every row and setting that is not in the table
    python -m tests.selftest.liveness frames_    the faults whose id starts so; other lines stay

The table is LIVENESS.md beside this file; lines of faults that no longer exist are dropped. A fault
is live in a setting if it moves the final latents, or the frames, by more than 20 times what healthy
changes do in float32 (2e-6), or gives something that cannot be compared at all. A fault that shows in
the second render only is compared there. Healthy changes that are patches are measured in the same
way, and must stay below the limit.
"""

from __future__ import annotations

import gc
import math
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from backends import registry
from backends.base import Case, Inputs, Pipeline, Prediction
from backends.noise import NoiseTape
from backends.worker import patches
from backends.worker.environment import describe
from harness.config.compose import compose_tree
from harness.config.config import RunConfig, build
from harness.config.folders import conf_folders
from tests.selftest.catalogue import faults, healthy
from tests.selftest.row import Fault
from tests.selftest.setting import Setting

LIMIT = 20 * 2e-6
TABLE = Path(__file__).with_name("LIVENESS.md")
OTHER_PROMPT = "a blue square moving right on a black background"


@dataclass(frozen=True)
class Result:
    """What one render gave: final latents, and frames if they were decoded."""

    latents: Tensor
    frames: Tensor


@dataclass(frozen=True)
class Row:
    """A fault in a setting. Distances are relative L2: infinite where one side is not finite, NaN
    where frames were not decoded, because the fault is in what comes before the final latents."""

    fault: Fault
    setting: Setting
    latents: float
    frames: float
    psnr_db: float
    note: str = ""

    @property
    def live(self) -> bool:
        return self.latents > LIMIT or self.frames > LIMIT


@cache
def composed(overrides: tuple[str, ...]) -> RunConfig:
    return build(compose_tree(list(overrides), conf_folders(None)))


def config_of(fault: Fault, setting: Setting) -> RunConfig:
    """The run's configuration; only what no patch changes is composed again."""
    if fault.planted == "options":
        return composed(fault.at(setting).overrides)
    config = composed(setting.overrides())
    candidate = config.candidates[0].model_copy(update={"patch": fault.id})
    return config.model_copy(update={"candidates": (candidate,)})


def opened(config: RunConfig, plugin: str | None) -> Pipeline:
    """The candidate's pipeline, with its patch."""
    candidate = config.candidates[0]
    backend = registry.load(candidate.backend)
    pipeline = backend.open(config.cases[0].model, candidate.options)
    if candidate.patch is None:
        return pipeline
    assert plugin is not None
    patches.load_plugin(plugin)
    return patches.apply(candidate.patch, pipeline)


class _Enough(Exception):
    """The final latents are there, and nothing after them is wanted."""


def rendered(pipeline: Pipeline, case: Case, seed: int, decode: bool) -> Result:
    """A native run; without `decode` it is broken off before decoding, which costs two thirds."""
    last: list[Tensor] = []

    def observe(
        step: int, timestep: int, latents: Tensor, prediction: Prediction, result: Tensor
    ) -> None:
        last[:] = [result]
        if not decode and step == case.steps - 1:
            raise _Enough

    frames = torch.empty(0)
    with torch.no_grad(), suppress(_Enough):
        frames = pipeline.render(case, Inputs(), NoiseTape(seed), observe)
    return Result(last[0].float(), frames.float())


def needs_frames(fault: Fault) -> bool:
    """Whether its proof may lie behind the final latents."""
    behind = fault.component in ("decoder", "frames", "loop") or fault.kind == "harmless"
    return behind or fault.second_render is not None


def second_of(fault: Fault, case: Case, seed: int) -> tuple[Case, int]:
    """The case and seed of the second render, in which the fault shows."""
    seed += fault.second_render == "other_seed"
    prompt = OTHER_PROMPT if fault.second_render == "other_prompt" else case.prompt
    return replace(case, prompt=prompt), seed


@cache
def clean(setting: Setting, prompt: str, seed: int, decode: bool) -> Result:
    config = composed(setting.overrides())
    pipeline = opened(config, None)
    result = rendered(pipeline, replace(config.cases[0], prompt=prompt), seed, decode)
    pipeline.close()
    return result


def distance(reference: Tensor, other: Tensor) -> float:
    if reference.shape != other.shape:
        return math.inf
    value = float((other - reference).norm() / reference.norm())
    return value if math.isfinite(value) else math.inf


def measured(fault: Fault, setting: Setting) -> Row:
    config = config_of(fault, setting)
    decode = needs_frames(fault)
    videos = [(config.cases[0], seed) for seed in seeds_of(fault)]
    if fault.second_render is not None:
        videos.append(second_of(fault, *videos[0]))
    pipeline = opened(config, fault.plugin)
    try:
        pipeline.identity()
        results = [rendered(pipeline, case, seed, decode) for case, seed in videos]
    finally:
        pipeline.close()
    right = [clean(setting, case.prompt, seed, decode) for case, seed in videos]
    pairs = list(zip(right, results, strict=True))
    frames = [distance(a.frames, b.frames) for a, b in pairs]
    note = "" if decode else "not decoded"
    if fault.second_render is not None:
        note = f"second render; the first differs by {frames[0]:.1e}"
        pairs, frames = pairs[1:], frames[1:]
    return Row(
        fault, setting,
        max(distance(a.latents, b.latents) for a, b in pairs),
        max(frames) if decode else math.nan,
        min(_psnr_db(a.frames, b.frames) for a, b in pairs),
        note,
    )  # fmt: skip


def seeds_of(fault: Fault) -> list[int]:
    """The seeds that it is rendered with: 0, unless `further` says otherwise."""
    for item in fault.further:
        if item.startswith("seeds="):
            return [int(seed) for seed in item.removeprefix("seeds=").strip("[]").split(",")]
    return [0]


def _psnr_db(reference: Tensor, other: Tensor) -> float:
    if reference.shape != other.shape or not reference.numel():
        return math.nan
    error = float((reference - other).square().mean())
    return -10 * math.log10(error) if error > 0 else math.inf


@cache
def harmless() -> tuple[Fault, ...]:
    """The healthy changes that are patches, in the form of faults that must not be live."""
    found: dict[str, Fault] = {}
    for row in healthy():
        if row.patch is not None:
            known = found.get(row.patch)
            settings = (*(known.settings if known else ()), replace(row.setting, dtype="float32"))
            found[row.patch] = Fault(
                row.patch, "harmless", row.summary, "loop", settings, row.plugin
            )
    return tuple(found.values())


def settings_of(fault: Fault) -> list[Setting]:
    """Its settings, each once: in float32, unless it shows at reduced precision only."""
    if all(s.dtype == "bfloat16" for s in fault.settings):
        return list(fault.settings)
    return list(dict.fromkeys(replace(s, dtype="float32") for s in fault.settings))


def place(setting: Setting) -> str:
    return " ".join(
        (setting.backend, setting.model, setting.sampler,
         *(("bfloat16",) if setting.dtype == "bfloat16" else ()), *setting.case, *setting.candidate)
    )  # fmt: skip


def line(row: Row) -> str:
    state = "live" if row.live else "below"
    return (
        f"| {row.fault.id} | {place(row.setting)} | {row.latents:.1e} | {row.frames:.1e} |"
        f" {row.psnr_db:.1f} | {state}{'; ' + row.note if row.note else ''} |"
    )


HEAD = """\
# Liveness of the planted faults, and harmlessness of the healthy changes

Written by `python -m tests.selftest.liveness`: float32, one thread, quick cases, faulty against clean in
one process. A fault must be live: above 4e-5 in latents or frames. A harmless change must stay below.
A distance is infinite where the fault gives something that is not finite or has another shape.
Frames are decoded (else nan) only for faults that may show behind the final latents alone.

"""
COLUMNS = """\
| fault | setting | latents, rel. L2 | frames, rel. L2 | frames, PSNR dB | |
|---|---|---|---|---|---|
"""


def keep(rows: list[Row]) -> None:
    """Write `rows` into the table."""
    kept: dict[tuple[str, ...], str] = {}
    old = TABLE.read_text().splitlines() if TABLE.is_file() else []
    for text in [*old, *map(line, rows)]:
        if text.endswith(" |") and text.count(" | ") >= 5:
            kept[tuple(text.split(" | ")[:2])] = text
    order = [(f"| {f.id}", place(s)) for f in (*faults(), *harmless()) for s in settings_of(f)]
    versions = ", ".join(f"{k} {v}" for k, v in sorted(describe().items()))
    body = "".join(f"{kept[key]}\n" for key in order if key in kept)
    TABLE.write_text(f"{HEAD}{versions}\n\n{COLUMNS}{body}")


def due(prefixes: tuple[str, ...]) -> list[tuple[Fault, Setting]]:
    """What to measure: every fault's first setting before any fault's second."""
    known = TABLE.read_text() if TABLE.is_file() and not prefixes else ""
    every = (*faults(), *harmless())
    chosen = [fault for fault in every if not prefixes or fault.id.startswith(prefixes)]
    pairs = [(rank, f, s) for f in chosen for rank, s in enumerate(settings_of(f))]
    pairs.sort(key=lambda pair: pair[0])
    return [(f, s) for _, f, s in pairs if f"| {f.id} | {place(s)} |" not in known]


def main(prefixes: tuple[str, ...]) -> int:
    torch.set_num_threads(1)
    wrong = 0
    for fault, setting in due(prefixes):
        try:
            row = measured(fault, setting)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".replace("\n", " ")
            row = Row(fault, setting, math.nan, math.nan, math.nan, reason)
        right = row.live != (fault.kind == "harmless") and not math.isnan(row.latents)
        print(line(row) + ("" if right else " <- WRONG"), flush=True)
        gc.freeze()  # closing a pipeline collects garbage; the libraries are none
        if right:
            keep([row])
        wrong += not right
    print(f"{wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(tuple(sys.argv[1:])))
