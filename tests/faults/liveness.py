"""Prove that planted faults are live: each against the clean pipeline, in float32, in one process.

    python tests/faults/liveness.py            every fault in every setting, table to LIVENESS.md
    python tests/faults/liveness.py frames_    the faults whose id starts so, to the screen only

A fault is live in a setting if it moves the final latents, or the frames, by more than 20 times what
healthy changes do in float32 (2e-6), or gives something that cannot be compared at all. A fault that
shows in the second render only is compared there.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
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


def config_of(overrides: Iterable[str]) -> RunConfig:
    return build(compose_tree(list(overrides), conf_folders(None)))


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
    config = config_of(setting.overrides())
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
    config = config_of(fault.at(setting).overrides)
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


def line(row: Row) -> str:
    setting = row.setting
    place = " ".join((setting.backend, setting.model, setting.sampler, *setting.case))
    state = "live" if row.live else "NOT LIVE"
    return (
        f"| {row.fault.id} | {place} | {row.latents:.1e} | {row.frames:.1e} | {row.psnr_db:.1f} |"
        f" {state}{'; ' + row.note if row.note else ''} |"
    )


def main(prefix: str | None) -> int:
    torch.set_num_threads(1)
    rows: list[Row] = []
    for fault in faults():
        if prefix is not None and not fault.id.startswith(prefix):
            continue
        for setting in settings_of(fault):
            try:
                rows.append(measured(fault, setting))
                print(line(rows[-1]), flush=True)
            except Exception as error:
                print(f"ERROR {fault.id} {setting}: {type(error).__name__}: {error}", flush=True)
                rows.append(Row(fault, setting, math.nan, math.nan, math.nan, f"error: {error}"))
    dead = [row for row in rows if not row.live]
    print(f"{len(rows)} rows, {len({r.fault.id for r in rows})} faults, {len(dead)} not live")
    if prefix is None:
        versions = ", ".join(f"{k} {v}" for k, v in sorted(describe().items()))
        TABLE.write_text(
            "# Liveness of the planted faults\n\nWritten by `python tests/faults/liveness.py`:"
            " float32, one thread, quick cases, faulty against clean\nin one process. Healthy"
            " changes move the latents by up to 2e-6; live is above 4e-5 in latents or frames.\n\n"
            f"{versions}\n\n"
            "| fault | setting | latents, rel. L2 | frames, rel. L2 | frames, PSNR dB | |\n"
            "|---|---|---|---|---|---|\n" + "\n".join(map(line, rows)) + "\n"
        )
    return 1 if dead else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else None))
