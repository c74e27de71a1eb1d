"""Further questions once a difference is seen: they tell where it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from backends.base import Case
from backends.stages.questions import Question
from harness.errors import WorkerError
from harness.judge.arguments import of_question, stage_given
from harness.judge.blocks import Place, differs_in_run
from harness.judge.measured import Answers, LocalData
from harness.judge.native import in_a_module, in_one_call
from harness.judge.skipped import judge_skipped
from harness.probe.native import shared_with
from harness.probe.prober import Prober, Shared, Target
from harness.probe.stages import FULL_PRECISION, share_inputs
from harness.records import Component, Evidence, RenderRecord
from harness.render.kept import read_handed
from harness.store.store import Store
from harness.workers.client import RemoteError

_SHARED = ("text", "unconditional", "schedule", "image")


def solve_from_nothing(
    prober: Prober, data: LocalData, sides: tuple[Target, Target]
) -> tuple[Answers, Answers]:
    """Both sides' solver steps of the judged seeds, in float32, from latents and velocities of zeros.

    Answered as "solve.s<seed>". No transformer is called.
    """
    a, b = data.reference.full, data.candidate.full
    seeds = data.settings.seeds[:2]
    names = [f"s{s}.{k}.{n}" for s in seeds for k in data.steps for n in ("in", "velocity")]
    given = {name: np.zeros_like(a.tensors[name]) for name in names}
    questions = [
        Question(f"solve.s{s}", "solve", seed=s, steps=data.steps, source=f"s{s}") for s in seeds
    ]
    with TemporaryDirectory(prefix="parity-nothing-") as folder:
        inputs = share_inputs(a, data.table, Path(folder), "float32")
        shared = Shared(inputs, _SHARED, "float32")
        mine = prober.ask(sides[0].at(FULL_PRECISION), data.case, shared, questions, given)
        if a.facts["own"]["schedule"] == b.facts["own"]["schedule"]:
            # As in `probe_pair`: a solver that has this schedule anyway sees real timesteps.
            shared = replace(shared, share=tuple(f for f in _SHARED if f != "schedule"))
        other = prober.ask(sides[1].at(FULL_PRECISION), data.case, shared, questions, given)
    return mine, other


def in_run(
    prober: Prober,
    store: Store,
    case: Case,
    side: Target,
    renders: Sequence[tuple[RenderRecord, RenderRecord]],
    links: list[Evidence],
    given: Sequence[Evidence],
) -> tuple[list[Evidence], dict[Component, Place]]:
    """`links` with what a module does in the run only held against the transformer, and that module.

    Nothing is asked where the stages agree with the run, or where it was `given` something else.
    """
    wrong = next((e for e in links if in_one_call(e)), None)
    handed = any(e.outcome == "differs" and stage_given(e.check) == "transformer" for e in given)
    if wrong is None or wrong.step is None or handed:
        return links, {}
    record = next(candidate for _, candidate in renders if candidate.seed == wrong.seed)
    try:
        place = differs_in_run(
            _scan_of_run(prober, store, case, side, record, wrong.step), wrong.step
        )
    except (RemoteError, WorkerError):
        return links, {}  # the difference stands; only its place is unknown
    if place is None:
        return links, {}
    return [in_a_module(e) for e in links], {"transformer": place}


def skipped_blocks(
    store: Store, data: LocalData, renders: Sequence[tuple[RenderRecord, RenderRecord]]
) -> list[Evidence]:
    """Block calls that one side's run skips, or its stages where nothing was rendered."""
    if not renders:
        question = f"s{data.settings.seeds[0]}"
        a, b = (of_question(side.full, question) for side in (data.reference, data.candidate))
        return judge_skipped("collapse", "the candidate, asked step by step,", a, b)
    a, b = (read_handed(store, record) for record in renders[0])
    if a is None or b is None:
        return []
    return judge_skipped("native.candidate", "the candidate's own run", a.calls, b.calls)


def _scan_of_run(
    prober: Prober, store: Store, case: Case, side: Target, record: RenderRecord, step: int
) -> Answers:
    """The transformer's modules in the run of `record`, made again in a fresh pipeline up to `step`, as
    "scan"; and twice by hand on the same latents, as "again.scan" and "repeat.scan"."""
    question = Question("scan", "native_scan", seed=record.seed, steps=(step,), root="transformer")
    prober.reopen()  # what goes wrong in a first call only did so in a fresh one
    return prober.ask(side, case, shared_with(store, record), [question], {})
