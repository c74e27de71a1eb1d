"""The two CogVideoX solvers once more, in float64, to replay what a stack's own loop did.

Both are linear in latents, velocities and noise, so they can be replayed on sketches, for every step and
without the tensors. Notation: a is alpha_bar at the step, a' at its target, c the level that turns
velocity into a clean sample (a itself unless the stack rounds it).

    x0 = sqrt(c) x - sqrt(1 - c) v
    ddim   x' = sqrt((1 - a') / (1 - a)) x + (sqrt(a') - sqrt(a) sqrt((1 - a') / (1 - a))) x0
    dpm    h = lambda' - lambda, r = (lambda - lambda_back) / h, lambda = log sqrt(a / (1 - a))
           d = (1 + 1 / 2r) x0 - 1 / 2r x0_back   (x0 itself in the first and in a clean last step)
           x' = sqrt((1 - a') / (1 - a)) e^-h x + sqrt(a') (1 - e^-2h) d + sqrt((1 - a') (1 - e^-2h)) n

DDIM: Song, Meng, Ermon 2021, eq. 12 with eta 0. DPM: SDE-DPM-Solver++ (2M), Lu et al. 2022. Of the two
draws of a second-order step the second one is n; both code bases discard the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from backends.base import ScheduleTable

Vector = NDArray[np.float64]

NoiseOf = Callable[[int, int], Vector]
"""The sketch of draw `index` of step `step`."""


def _half_log_snr(alpha_bar: float) -> float:
    if alpha_bar <= 0:
        return -math.inf
    return math.inf if alpha_bar >= 1 else 0.5 * math.log(alpha_bar / (1 - alpha_bar))


def clean_sample(table: ScheduleTable, step: int, x: Vector, v: Vector) -> Vector:
    """The clean sample that velocity `v` at latents `x` amounts to at `step`."""
    c = (table.alpha_bar_clean or table.alpha_bar)[step]
    return math.sqrt(c) * x - math.sqrt(1 - c) * v


def replay(
    table: ScheduleTable, sampler: str, inputs: NDArray[np.float32],
    velocities: NDArray[np.float32], noise: NoiseOf,
) -> list[Vector]:  # fmt: skip
    """What each step should have given, from the rows of `inputs` and `velocities` (N, D)."""
    cleans = [
        clean_sample(table, k, x.astype(np.float64), v.astype(np.float64))
        for k, (x, v) in enumerate(zip(inputs, velocities, strict=True))
    ]
    advance = _ddim if sampler == "ddim" else _dpm
    return [
        advance(table, step, inputs[step].astype(np.float64), cleans, noise)
        for step in range(len(cleans))
    ]


def _ddim(
    table: ScheduleTable, step: int, x: Vector, cleans: list[Vector], noise: NoiseOf
) -> Vector:
    a, target = table.alpha_bar[step], table.alpha_bar_next[step]
    ratio = math.sqrt((1 - target) / (1 - a))
    return ratio * x + (math.sqrt(target) - math.sqrt(a) * ratio) * cleans[step]


def _dpm(
    table: ScheduleTable, step: int, x: Vector, cleans: list[Vector], noise: NoiseOf
) -> Vector:
    a, target = table.alpha_bar[step], table.alpha_bar_next[step]
    here, there = _half_log_snr(a), _half_log_snr(target)
    h = there - here
    kept, renewed = math.exp(-h), -math.expm1(-2 * h)
    second = step > 0 and target < 1
    d = cleans[step]
    if second:
        r = (here - _half_log_snr(table.alpha_bar[step - 1])) / h
        d = (1 + 1 / (2 * r)) * cleans[step] - 1 / (2 * r) * cleans[step - 1]
    x_next = math.sqrt((1 - target) / (1 - a)) * kept * x + math.sqrt(target) * renewed * d
    spread = math.sqrt((1 - target) * renewed)
    return x_next + spread * noise(step, 1 if second else 0) if spread > 0 else x_next
