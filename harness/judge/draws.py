"""Whether a solver step went wrong in the noise that it adds or in its formula, and what that noise is.

A DPM step adds spread * n to what it computes, n its draw. With r the difference of a wrong step from
the right one: where another draw was used, the due one is missing (r has the part -spread n), and
something of its size stands in its place. A wrong formula scales what is there, leaves it out, or, as
DDIM does, puts something in its place that it makes from the latents and velocities. Only sketches are
needed, since all of this is linear. What this does not tell, steps from nothing do (`from_nothing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backends.base import ScheduleTable
from backends.noise import Stage, draw_slot, standard_normal
from backends.stages.sketch import sketch_array
from harness.judge.solver import NoiseOf, Vector, dpm_noise
from harness.records import Evidence, RenderRecord

MISSING, SIZE = 0.2, 0.25
"""How near to the whole the missing part, and the size of its replacement, must be; a sketch of 512
numbers knows either to some 6 %."""

MADE_UP = 0.9
"""The part of a replacement's square that latents and velocities explain, from which it is no draw."""

SAME_NOISE = 0.05
"""How near, relatively, noise must come to a draw to be called that one, and what is off in a step from
nothing to what was off before. Chosen: these are equal up to the rounding of other sums, or unlike."""


@dataclass(frozen=True)
class StepNoise:
    """The noise that one step adds: `draw` names it (`step 3, draw 1`), `told` says what it is in place
    of what is due."""

    draw: str
    told: str


def step_noise(
    table: ScheduleTable,
    sampler: str,
    step: int,
    seed: int,
    shape: tuple[int, ...],
    gap: NDArray[np.floating],
) -> StepNoise | None:
    """What the noise of a step is whose result is off by `gap` (sketch, 512), where nothing but noise is
    wrong with it; None where a step adds none although some is due, which is another solver's step.

    `table`, `sampler`, `seed` and the latents' `shape` say what is due.
    """
    tape = tape_noise(seed, shape)
    factor, index = dpm_noise(table, step) if sampler == "dpm" else (0.0, 0)
    due = factor * tape(step, index) if factor else np.zeros(len(gap))
    size, came = float(np.linalg.norm(due)), due + gap
    if size == 0:
        return StepNoise(f"step {step}", "none is due there")
    if np.linalg.norm(came) <= SAME_NOISE * size:
        return None
    draw = f"step {step}, draw {index}"
    part = float(came @ due) / size**2
    rest = float(np.linalg.norm(came - part * due)) / size
    if rest <= SAME_NOISE * abs(part):
        return StepNoise(draw, f"it is {part:.4g} times the tape's draw")
    others: list[tuple[str, tuple[Stage, int, int]]] = [
        ("the draw of the initial latents", ("initial", 0, 0)),
        *(
            (f"draw {i} of step {k}", ("step", k, i))
            for k in range(max(0, step - 1), step + 2)
            for i in range(2)
            if (k, i) != (step, index)
        ),
    ]
    for name, (stage, k, i) in others:
        other = factor * sketch_array(standard_normal(seed, draw_slot(stage, k, i), shape))
        if np.linalg.norm(came - other) <= SAME_NOISE * size:
            return StepNoise(draw, f"it is {name}")
    if part < MISSING:
        return StepNoise(draw, "it is not the tape's draw")
    return StepNoise(draw, f"{part:.2g} of it is the tape's draw, {rest:.2g} something else")


def foreign_draw(
    table: ScheduleTable,
    step: int,
    seed: int,
    shape: tuple[int, ...],
    right: NDArray[np.floating],
    came: NDArray[np.floating],
    operands: Sequence[NDArray[np.float32]],
) -> bool:
    """Whether step `step` of DPM, whose results have the sketches `right` and `came` (512,), used
    another draw than the tape's of `seed`. `shape` is that of the latents, `operands` the sketches of
    what the step computes from: latents and velocities of this step and the one before."""
    factor, index = dpm_noise(table, step)
    due = factor * tape_noise(seed, shape)(step, index)
    size = float(np.linalg.norm(due))
    if size == 0:
        return False
    gap = came.astype(np.float64) - right
    missing = -float(gap @ due) / size**2
    instead = gap + due
    if abs(missing - 1) > MISSING or abs(float(np.linalg.norm(instead)) / size - 1) > SIZE:
        return False
    basis = np.array(operands, dtype=np.float64).T
    rest = instead - basis @ np.linalg.lstsq(basis, instead, rcond=None)[0]
    return float(rest @ rest) > (1 - MADE_UP) * float(instead @ instead)


def wrong_noise(
    table: ScheduleTable,
    sampler: str,
    step: int,
    seed: int,
    shape: tuple[int, ...],
    right: NDArray[np.floating],
    came: NDArray[np.floating],
    operands: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> StepNoise | None:
    """The noise of a step whose results have the sketches `right` and `came` (512,), where these alone
    tell that nothing but noise is wrong; None where not. `operands` are the sketches (N, 512) of the
    latents and velocities that all steps compute from."""
    if sampler != "dpm":
        return None
    gap = came.astype(np.float64) - right
    around = slice(max(0, step - 1), step + 1)
    used = [row for rows in operands for row in rows[around]]
    if not (
        foreign_draw(table, step, seed, shape, right, came, used)
        or _only_scaled(table, step, seed, shape, gap)
    ):
        return None
    return step_noise(table, sampler, step, seed, shape, gap)


def _only_scaled(
    table: ScheduleTable, step: int, seed: int, shape: tuple[int, ...], gap: NDArray[np.floating]
) -> bool:
    """Whether a DPM step that is off by `gap` (sketch, 512) is so by a multiple of its draw alone."""
    factor, index = dpm_noise(table, step)
    due = factor * tape_noise(seed, shape)(step, index)
    size, off = float(np.linalg.norm(due)), float(np.linalg.norm(gap))
    if size == 0 or off == 0:
        return False
    rest = gap - float(gap @ due) / size**2 * due
    return float(np.linalg.norm(rest)) <= SAME_NOISE * off


def judge_generators(
    reference: RenderRecord, candidate: RenderRecord, one_stack: bool
) -> list[Evidence]:
    """Whether two runs asked the same generators for their noise. Every draw is served from the tape, so
    a sampler that is not handed the caller's generator makes the right video here and another one each
    time elsewhere."""
    a, b = reference.generators, candidate.generators
    odd = sorted(stage for stage in a.keys() & b.keys() if a[stage] != b[stage])
    if not a or not b:
        return []
    told = "; ".join(
        f"{stage}: the {' and the '.join(b[stage])} one, the reference the"
        f" {' and the '.join(a[stage])} one"
        for stage in odd
    )
    return [
        Evidence(
            stage="native",
            check="native.candidate.generator",
            component="noise",
            outcome="agrees" if not odd else "differs" if one_stack else "noted",
            detail=f"the generators that its own run asks for noise: {told or 'the same'}",
            seed=candidate.seed,
        )
    ]


def tape_noise(seed: int, shape: tuple[int, ...]) -> NoiseOf:
    """The sketches of the tape's draws for latents of `shape`."""

    def sketched(step: int, index: int) -> Vector:
        drawn = standard_normal(seed, draw_slot("step", step, index), shape)
        return sketch_array(drawn).astype(np.float64)

    return sketched
