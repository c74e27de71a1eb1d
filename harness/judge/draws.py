"""Whether a solver step went wrong in its noise or in its formula.

A DPM step adds spread * n to what it computes, n its draw. With r the difference of a wrong step from
the right one: where another draw was used, the due one is missing (r has the part -spread n), and
something of its size stands in its place. A wrong formula scales what is there, leaves it out, or, as
DDIM does, puts something in its place that it makes from the latents and velocities. Only sketches are
needed, since all of this is linear.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from backends.base import ScheduleTable
from backends.noise import draw_slot, standard_normal
from backends.sketch import sketch_array
from harness.judge.solver import NoiseOf, Vector, dpm_noise
from harness.records import Evidence, RenderRecord

MISSING, SIZE = 0.2, 0.25
"""How near to the whole the missing part, and the size of its replacement, must be; a sketch of 512
numbers knows either to some 6 %."""

MADE_UP = 0.9
"""The part of a replacement's square that latents and velocities explain, from which it is no draw."""


def foreign_draw(
    table: ScheduleTable,
    step: int,
    seed: int,
    shape: tuple[int, ...],
    right: NDArray[np.float32],
    came: NDArray[np.float32],
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
