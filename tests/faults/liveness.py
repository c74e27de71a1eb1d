"""Prove that planted faults are live: each against the clean pipeline, in float32, in one process.

    python tests/faults/liveness.py            every fault and setting that is not in the table
    python tests/faults/liveness.py frames_    the faults whose id starts so; other lines stay

The table is LIVENESS.md beside this file, and lines of faults that no longer exist are dropped.

A fault is live in a setting if it moves the final latents, or the frames, by more than 20 times what
healthy changes do in float32 (2e-6), or gives something that cannot be compared at all. A fault that
shows in the second render only is compared there.
"""

from __future__ import annotations

import gc
import math
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backends import patches, registry
from backends.base import Case, Inputs, Pipeline
from backends.environment import describe
from backends.noise import NoiseTape
from harness.compose import compose_tree
from harness.config import RunConfig, build
from harness.folders import conf_folders
from harness.selftest.catalogue import Fault, faults
from harness.selftest.setting import Setting

LIMIT = 20 * 2e-6
TABLE = Path(__file__).with_name("LIVENESS.md")
OTHER_PROMPT = "a blue square moving right on a black background"


@dataclass(frozen=True)
class Result:
    """What one render gave: final latents and frames, or the stack's error."""

    latents: Tensor
    frames: Tensor
    error: str | None = None


@dataclass(frozen=True)
class Row:
    """A fault in a setting. Distances are relative L2; infinite where one side is not finite."""

    fault: Fault
    setting: Setting
    latents: float
    frames: float
    psnr_db: float
    note: str = ""

    @property
    def live(self) -> bool:
        return max(self.latents, self.frames) > LIMIT


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


def rendered(pipeline: Pipeline, case: Case, seed: int = 0) -> Result:
    last: list[Tensor] = []

    def observe(_step: int, _t: int, _latents: Tensor, _prediction: Any, result: Tensor) -> None:
        last[:] = [result]

    with torch.no_grad():
        frames = pipeline.render(case, Inputs(), NoiseTape(seed), observe)
    return Result(last[0].float(), frames.float())


def second_of(fault: Fault, case: Case) -> tuple[Case, int]:
    """The case and seed of the render in which the fault shows, if that is the second."""
    seed = 1 if fault.second_render == "other_seed" else 0
    prompt = OTHER_PROMPT if fault.second_render == "other_prompt" else case.prompt
    return replace(case, prompt=prompt), seed


@cache
def clean(setting: Setting, prompt: str, seed: int) -> Result:
    config = composed(setting.overrides())
    pipeline = opened(config, None)
    result = rendered(pipeline, replace(config.cases[0], prompt=prompt), seed)
    pipeline.close()
    return result


def distance(reference: Tensor, other: Tensor) -> float:
    if reference.shape != other.shape:
        return math.inf
    value = float((other - reference).norm() / reference.norm())
    return value if math.isfinite(value) else math.inf


def measured(fault: Fault, setting: Setting) -> Row:
    setting = replace(setting, dtype="float32")
    config = config_of(fault, setting)
    case, seed = config.cases[0], 0
    pipeline = opened(config, fault.plugin)
    note = ""
    try:
        pipeline.identity()
        result = rendered(pipeline, case)
        if fault.second_render is not None:
            first = distance(clean(setting, case.prompt, 0).frames, result.frames)
            note = f"second render; the first differs by {first:.1e}"
            case, seed = second_of(fault, case)
            result = rendered(pipeline, case, seed)
    finally:
        pipeline.close()
    expected = clean(setting, case.prompt, seed)
    same = expected.frames.shape == result.frames.shape
    error = float((expected.frames - result.frames).square().mean()) if same else math.nan
    return Row(
        fault,
        setting,
        distance(expected.latents, result.latents),
        distance(expected.frames, result.frames),
        -10 * math.log10(error) if error > 0 else math.inf if error == 0 else math.nan,
        note,
    )


def settings_of(fault: Fault) -> list[Setting]:
    """Its settings in float32, each once."""
    return list(dict.fromkeys(replace(s, dtype="float32") for s in fault.settings))


def place(setting: Setting) -> str:
    return " ".join(
        (setting.backend, setting.model, setting.sampler, *setting.case, *setting.candidate)
    )


def line(row: Row) -> str:
    state = "live" if row.live else "NOT LIVE"
    return (
        f"| {row.fault.id} | {place(row.setting)} | {row.latents:.1e} | {row.frames:.1e} |"
        f" {row.psnr_db:.1f} | {state}{'; ' + row.note if row.note else ''} |"
    )


HEAD = """\
# Liveness of the planted faults

Written by `python tests/faults/liveness.py`: float32, one thread, quick cases, faulty against clean in
one process. Healthy changes move the latents by up to 2e-6; live is above 4e-5 in latents or frames.
A distance is infinite where the fault gives something that is not finite or has another shape.

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
        if text.startswith("| ") and not text.startswith("| fault"):
            kept[tuple(text.split(" | ")[:2])] = text
    order = [(f"| {f.id}", place(s)) for f in faults() for s in settings_of(f)]
    versions = ", ".join(f"{k} {v}" for k, v in sorted(describe().items()))
    body = "".join(f"{kept[key]}\n" for key in order if key in kept)
    TABLE.write_text(f"{HEAD}{versions}\n\n{COLUMNS}{body}")


def due(prefixes: tuple[str, ...]) -> list[tuple[Fault, Setting]]:
    """What to measure: every fault's first setting before any fault's second."""
    known = TABLE.read_text() if TABLE.is_file() and not prefixes else ""
    chosen = [fault for fault in faults() if not prefixes or fault.id.startswith(prefixes)]
    pairs = [(rank, f, s) for f in chosen for rank, s in enumerate(settings_of(f))]
    pairs.sort(key=lambda pair: pair[0])
    return [(f, s) for _, f, s in pairs if f"| {f.id} | {place(s)} |" not in known]


def main(prefixes: tuple[str, ...]) -> int:
    torch.set_num_threads(1)
    dead = 0
    for fault, setting in due(prefixes):
        try:
            row = measured(fault, setting)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".replace("\n", " ")
            row = Row(fault, setting, math.nan, math.nan, math.nan, reason)
        print(line(row), flush=True)
        gc.freeze()  # closing a pipeline collects garbage; the libraries are none
        dead += not row.live
        if row.live:
            keep([row])
    print(f"{dead} not live")
    return 1 if dead else 0


if __name__ == "__main__":
    sys.exit(main(tuple(sys.argv[1:])))
