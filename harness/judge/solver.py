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
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backends.base import ScheduleTable

Vector = NDArray[np.float64]

NoiseOf = Callable[[int, int], Vector]
"""The sketch of draw `index` of step `step`."""

REPLAY_LIMIT = 1e-4
"""Of a sketched float32 step, relative to its terms: sketches sum thousands of float32 values."""


@dataclass(frozen=True)
class Replayed:
    """What a step should have given, and the sum of the norms of the terms that it was added up from.

    Every term is rounded before the sum, so the rounding error goes with `terms`: where terms cancel,
    as in a last step that reaches far, it is many times that of the result.
    """

    state: Vector
    terms: float

    def error(self, came: Vector) -> float:
        """|came - state| / terms; 0 where the step was given what is not finite, inf where only the
        result is not."""
        if not np.isfinite(self.state).all():
            return 0.0
        if not np.isfinite(came).all():
            return math.inf
        return float(np.linalg.norm(came.astype(np.float64) - self.state) / max(self.terms, 1e-300))


@dataclass(frozen=True)
class _Step:
    """Coefficients of one step: of latents, clean sample, the one before, and of draw `drawn`."""

    latents: float
    clean: float
    before: float = 0.0
    noise: float = 0.0
    drawn: int = 0


def _half_log_snr(alpha_bar: float) -> float:
    if alpha_bar <= 0:
        return -math.inf
    return math.inf if alpha_bar >= 1 else 0.5 * math.log(alpha_bar / (1 - alpha_bar))


def replay(
    table: ScheduleTable, sampler: str, inputs: NDArray[np.float32],
    velocities: NDArray[np.float32], noise: NoiseOf,
) -> list[Replayed]:  # fmt: skip
    """What each step should have given, from the rows of `inputs` and `velocities` (N, D)."""
    latents, made = inputs.astype(np.float64), velocities.astype(np.float64)
    cleans: list[Vector] = []
    sizes: list[float] = []
    for c, x, v in zip(table.alpha_bar_clean or table.alpha_bar, latents, made, strict=False):
        parts = math.sqrt(c) * x, -math.sqrt(1 - c) * v
        cleans.append(parts[0] + parts[1])
        sizes.append(sum(float(np.linalg.norm(part)) for part in parts))
    coefficients = _ddim if sampler == "ddim" else _dpm
    found: list[Replayed] = []
    for k, x in enumerate(latents):
        step = coefficients(table, k)
        state = step.latents * x + step.clean * cleans[k]
        terms = abs(step.latents) * float(np.linalg.norm(x)) + abs(step.clean) * sizes[k]
        if step.before:
            state += step.before * cleans[k - 1]
            terms += abs(step.before) * sizes[k - 1]
        if step.noise:
            drawn = noise(k, step.drawn)
            state += step.noise * drawn
            terms += step.noise * float(np.linalg.norm(drawn))
        found.append(Replayed(state, terms))
    return found


def dpm_noise(table: ScheduleTable, step: int) -> tuple[float, int]:
    """What a DPM step multiplies its noise by, and the index of the draw that is its noise."""
    made = _dpm(table, step)
    return made.noise, made.drawn


def _ddim(table: ScheduleTable, step: int) -> _Step:
    a, target = table.alpha_bar[step], table.alpha_bar_next[step]
    ratio = math.sqrt((1 - target) / (1 - a))
    return _Step(ratio, math.sqrt(target) - math.sqrt(a) * ratio)


def _dpm(table: ScheduleTable, step: int) -> _Step:
    a, target = table.alpha_bar[step], table.alpha_bar_next[step]
    here, there = _half_log_snr(a), _half_log_snr(target)
    h = there - here
    kept, renewed = math.exp(-h), -math.expm1(-2 * h)
    latents, clean = math.sqrt((1 - target) / (1 - a)) * kept, math.sqrt(target) * renewed
    noise = math.sqrt((1 - target) * renewed)
    if step == 0 or target >= 1:
        return _Step(latents, clean, noise=noise)
    r = (here - _half_log_snr(table.alpha_bar[step - 1])) / h
    back = clean / (2 * r)
    return _Step(latents, clean + back, -back, noise, drawn=1)
