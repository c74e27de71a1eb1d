"""A solver that differs, told from the noise that it adds, by its steps taken once more from nothing.

A step is linear in latents, velocities and noise. From latents and velocities of zeros what is left is
noise: a fault in that is as large as it was, a fault in the formula is another or none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from harness.judge.draws import SAME_NOISE, StepNoise, step_noise
from harness.judge.measured import Answers, LocalData
from harness.judge.steps import held_against_noise, solver_gaps
from harness.records import Evidence


def doubtful(evidence: Sequence[Evidence]) -> Evidence | None:
    """The solver's float32 check, where it differs and nothing tells yet what is wrong with it."""
    return next(
        (
            e
            for e in evidence
            if e.check == "collapse.solver"
            and e.outcome == "differs"
            and e.component == "solver"
            and e.setting is None
            and e.step is not None
        ),
        None,
    )


def with_step_noise(
    data: LocalData, evidence: Sequence[Evidence], rested: tuple[Answers, Answers]
) -> list[Evidence]:
    """`evidence`, its solver checks held against the noise where the step is right but for that.

    `rested` are both sides' answers from nothing (`harness.probe.place.solve_from_nothing`).
    """
    check = doubtful(evidence)
    if check is None or check.step is None:
        return list(evidence)
    found = _same_at_rest(data, check.step, check.limit or 0.0, rested)
    if found is None:
        return list(evidence)
    return [
        held_against_noise(e, found)
        if e.outcome == "differs" and e.component == "solver" and e.step == check.step
        else e
        for e in evidence
    ]


def _same_at_rest(
    data: LocalData, step: int, bound: float, rested: tuple[Answers, Answers]
) -> StepNoise | None:
    """The noise of `step`, where at every seed at which that is wrong the same is off from nothing."""
    a, b = data.reference.full, data.candidate.full
    found: StepNoise | None = None
    for seed in data.settings.seeds[:2]:
        name = f"solve.s{seed}.states"
        gaps = solver_gaps(a, b, seed)
        if len(gaps) <= step or gaps[step] <= bound:
            continue
        if not math.isfinite(gaps[step]) or len(solver_gaps(*rested, seed)) <= step:
            return None
        before, after = (
            y.tensors[name][step].astype(np.float64) - x.tensors[name][step]
            for x, y in ((a, b), rested)
        )
        if not np.linalg.norm(after - before) <= SAME_NOISE * np.linalg.norm(before):
            return None
        shape = a.tensors[f"s{seed}.{data.steps[0]}.in"].shape
        noise = step_noise(data.table, data.case.sampler, step, seed, shape, before)
        if noise is None:
            return None
        found = found or noise
    return found
