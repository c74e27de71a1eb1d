"""Guidance and solver, which no network takes part in: held to their formulas, not to healthy members.

Both are asked on given branches, velocities and draws, so what differs is the step's own arithmetic or a
setting of it, and which one can often be told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.stages.questions import nearest
from backends.stages.sketch import sketch_array
from harness.judge.draws import StepNoise, tape_noise, wrong_noise
from harness.judge.last_step import held_against_end, with_other_end
from harness.judge.limits import UNIT_ROUNDOFF, relative
from harness.judge.measured import Answers, LocalData
from harness.judge.solver import REPLAY_LIMIT, replay
from harness.records import Evidence

Array = NDArray[np.float32]

SOLVER_LIMIT = 1e-5
"""Relative L2 after all solver steps in float32. No network is called, so members have no say: this is
some hundred roundings of 6e-8, one for each operation of the two formulas."""

GUIDANCE_LIMIT = 32 * UNIT_ROUNDOFF["float32"]
"""Of the guided velocity, relative to the terms that it is the difference of."""

SAME_SCALE = 1e-3
"""Guidance scales that differ by less, relative to the largest, count as one."""


def _guided(
    data: LocalData, answers: Answers, question: str, step: int, given: Array
) -> NDArray[np.float64]:
    """The guided velocity that the solver consumed, from the clean sample where the stack gives that.

    v = (sqrt(c) x - x0) / sqrt(1 - c) with c the level at which that stack turns one into the other.
    """
    native = answers.tensors.get(f"{question}.{step}.native")
    if native is None:
        return answers.tensors[f"{question}.{step}.velocity"].astype(np.float64)
    table = data.table
    c = (table.alpha_bar_clean or table.alpha_bar)[step]
    return (math.sqrt(c) * given.astype(np.float64) - native) / math.sqrt(1 - c)


def judge_guidance(data: LocalData, b: Answers, stage: str) -> Evidence:
    """The candidate's own branches, combined with the reference's scale, must give its velocity.

    At any precision: both stacks combine in float32, whatever made the branches. Where another scale at
    every step is all that differs, that setting is named.
    """
    a = data.reference.full
    seen: list[tuple[float, int, int, _Combined]] = []
    for step in data.steps:
        scale = a.facts[f"s{data.settings.seeds[0]}"]["scales"][str(step)]
        for seed in data.settings.seeds:
            given = a.tensors[f"s{seed}.{step}.in"]
            came = _guided(data, b, f"s{seed}", step, given)
            found = _combined(b.tensors[f"s{seed}.{step}.branches"], came, given, scale)
            seen.append((found.error, step, seed, found))
    worst, step, seed, found = max(seen, key=lambda row: row[0])
    differs = worst > GUIDANCE_LIMIT
    return Evidence(
        stage=stage,
        check=f"{stage}.guidance",
        component="guidance",
        outcome="differs" if differs else "agrees",
        detail=f"guided velocity from the candidate's own branches: {worst:.3g}, limit"
        f" {GUIDANCE_LIMIT:.3g}{found.told if differs else ''}",
        value=worst,
        limit=GUIDANCE_LIMIT,
        unit="relative to its terms",
        step=step,
        seed=seed,
        setting=_scale_setting([row[3] for row in seen]) if differs else None,
    )


@dataclass(frozen=True)
class _Combined:
    """How a guided velocity was made of its branches: the error with the reference's `scale`, with the
    `effective` one that fits best, and that in words."""

    scale: float
    effective: float | None
    error: float
    rest: float
    told: str


def _scale_setting(seen: Sequence[_Combined]) -> str | None:
    """The setting of the guidance scale that is another, where that alone explains every velocity."""
    scales = [found.effective for found in seen if found.effective is not None]
    if len(scales) < len(seen) or any(found.rest > GUIDANCE_LIMIT for found in seen):
        return None
    constant = max(scales) - min(scales) <= SAME_SCALE * max(abs(value) for value in scales)
    theirs = {found.scale for found in seen}
    if constant != (len(theirs) == 1):
        return "dynamic_guidance"
    return "guidance_scale" if all(found.error > GUIDANCE_LIMIT for found in seen) else None


def _combined(branches: Array, came: NDArray[Any], given: Array, scale: float) -> _Combined:
    terms = branches.astype(np.float64)
    if not np.isfinite(terms).all():
        return _Combined(scale, None, 0.0, 0.0, "")  # the branches are to blame, judged as such
    if len(terms) == 1:
        expected, size = terms[0], float(np.linalg.norm(terms[0]))
        error = _off(came, expected, size)
        return _Combined(scale, None, error, error, "")
    gap = terms[1] - terms[0]
    size = float(np.linalg.norm(terms[0]) + scale * np.linalg.norm(gap) + np.linalg.norm(given))
    error = _off(came, terms[0] + scale * gap, size)
    if not math.isfinite(error):
        return _Combined(scale, None, error, error, "")
    effective = float(np.vdot(came.ravel() - terms[0].ravel(), gap.ravel()))
    effective /= max(float(np.vdot(gap, gap)), 1e-300)
    return _Combined(
        scale, effective, error, _off(came, terms[0] + effective * gap, size),
        f"; the scale it amounts to is {effective:.4g}, the reference's is {scale:.4g}",
    )  # fmt: skip


def _off(came: NDArray[Any], expected: NDArray[Any], size: float) -> float:
    if came.size != expected.size or not np.isfinite(came).all():
        return math.inf
    return float(np.linalg.norm(came.ravel() - expected.ravel()) / size)


def judge_solver(data: LocalData, a: Answers, b: Answers, stage: str, bound: float) -> Evidence:
    """All solver steps on the same velocities and draws; the first step past the limit is named.

    Where only the noise of that step is another than the tape's, it is the noise that differs; where
    the steps are those of the other sampler, or the clean sample is clipped, that setting is named.
    """
    values = {s: solver_gaps(a, b, s) for s in data.settings.seeds[:2]}
    at = max(values, key=lambda s: max(values[s]))
    worst = max(values[at])
    past = [k for gaps in values.values() for k, gap in enumerate(gaps) if gap > bound]
    first = min(past, default=None)
    noise = None if first is None else _step_noise(data, a, b, first, bound)
    setting, told = None, ""
    if first is not None and noise is None:
        setting, told = _solver_setting(data, b, at, first)
    found = Evidence(
        stage=stage,
        check=f"{stage}.solver",
        component="solver",
        outcome="agrees" if worst <= bound else "differs",
        detail=f"solver states on the same velocities and noise: {worst:.3g}, limit {bound:.3g}"
        + (f", from step {first} on" if first is not None else "")
        + told,
        value=worst,
        limit=bound,
        unit="relative L2",
        step=first,
        seed=at,
        setting=setting,
    )
    if noise is not None:
        return held_against_noise(found, noise)
    return held_against_end(found) if _other_end(data, b, at, first) else found


def held_against_noise(check: Evidence, noise: StepNoise) -> Evidence:
    """A solver's check as one of the noise that its step adds."""
    told = f"{check.detail}; the step is right but for the noise that it adds: {noise.told}"
    return check.model_copy(update={"component": "noise", "setting": noise.draw, "detail": told})


def _solver_setting(data: LocalData, b: Answers, seed: int, first: int) -> tuple[str | None, str]:
    """The setting that alone explains the candidate's steps, and that in words; None and nothing where
    there is none. `first` is the first wrong step."""
    if other := _other_sampler(data, b, seed):
        return "sampler", f"; they are the steps of {other}, where {data.case.sampler} is asked"
    if first == 0 and _clipped(data, b, seed):
        return "scheduler.clip_sample", "; its clean sample is clipped to [-1, 1]"
    return None, ""


def _other_end(data: LocalData, b: Answers, seed: int, first: int | None) -> bool:
    """Whether the last step alone is wrong, and is right for the other `set_alpha_to_one`."""
    states = b.tensors[f"solve.s{seed}.states"]
    if first is None or first != len(states) - 1 or len(states) != len(data.table.timesteps):
        return False
    table = with_other_end(data.table, data.reference.full.pipeline, data.case.steps)
    if table is None:
        return False
    shape = data.reference.full.tensors[f"s{seed}.{data.steps[0]}.in"].shape
    noise = tape_noise(seed, shape)
    steps = replay(table, data.case.sampler, *_operands(data, b, seed), noise)
    return steps[-1].error(states[-1]) <= REPLAY_LIMIT


def _clipped(data: LocalData, b: Answers, seed: int) -> bool:
    """Whether the first step follows from its clean sample clipped, which sketches cannot tell later."""
    tensors, level = data.reference.full.tensors, data.table.alpha_bar_clean or data.table.alpha_bar
    x = tensors[f"s{seed}.{data.steps[0]}.in"].astype(np.float64)
    v = tensors[f"s{seed}.{nearest(data.steps, 0)}.velocity"].astype(np.float64)
    keep, swap = math.sqrt(level[0]), math.sqrt(1 - level[0])
    clean = np.clip(keep * x - swap * v, -1, 1)
    operands = sketch_array(x)[None], sketch_array((keep * x - clean) / swap)[None]
    expected = replay(data.table, data.case.sampler, *operands, tape_noise(seed, x.shape))[0]
    return expected.error(b.tensors[f"solve.s{seed}.states"][0]) <= REPLAY_LIMIT


def _step_noise(
    data: LocalData, a: Answers, b: Answers, step: int, bound: float
) -> StepNoise | None:
    """The noise of the first wrong step, where at every seed at which it is wrong that is all."""
    found: StepNoise | None = None
    for seed in data.settings.seeds[:2]:
        gaps = solver_gaps(a, b, seed)
        if len(gaps) <= step or not bound < gaps[step] < math.inf:
            continue
        right, came = (side.tensors[f"solve.s{seed}.states"][step] for side in (a, b))
        shape = data.reference.full.tensors[f"s{seed}.{data.steps[0]}.in"].shape
        noise = wrong_noise(
            data.table, data.case.sampler, step, seed, shape, right, came, _operands(data, a, seed)
        )
        if noise is None:
            return None
        found = found or noise
    return found


def _operands(data: LocalData, side: Answers, seed: int) -> tuple[Array, Array]:
    """Sketches (N, 512) of the latents and velocities that a side's solver steps computed from; see
    `answers._solve`."""
    tensors, states = data.reference.full.tensors, side.tensors[f"solve.s{seed}.states"]
    first = sketch_array(tensors[f"s{seed}.{data.steps[0]}.in"])
    velocities = [
        sketch_array(tensors[f"s{seed}.{nearest(data.steps, k)}.velocity"])
        for k in range(len(states))
    ]
    return np.stack([first, *states[:-1]]), np.stack(velocities)


def _other_sampler(data: LocalData, b: Answers, seed: int) -> str | None:
    """The sampler whose formulas the candidate's states follow, if it is not the one that was asked."""
    other = "dpm" if data.case.sampler == "ddim" else "ddim"
    shape = data.reference.full.tensors[f"s{seed}.{data.steps[0]}.in"].shape
    states = b.tensors[f"solve.s{seed}.states"]
    if len(states) != len(data.table.timesteps):
        return None
    steps = replay(data.table, other, *_operands(data, b, seed), tape_noise(seed, shape))
    near = all(
        step.error(came) <= REPLAY_LIMIT and np.isfinite(step.state).all()
        for step, came in zip(steps, states, strict=True)
    )
    return other if near else None


def solver_gaps(a: Answers, b: Answers, seed: int) -> list[float]:
    """The distance of the two sides' states after every solver step."""
    x, y = a.tensors[f"solve.s{seed}.states"], b.tensors[f"solve.s{seed}.states"]
    if x.shape != y.shape:
        return [math.inf]
    return [relative(p, q) for p, q in zip(x, y, strict=True)]
