"""Anytime-valid statistics over seeds: look as often as you like, stop when you like.

An e-value is a non-negative quantity whose mean is at most 1 when nothing is wrong; by Ville's
inequality the running product passes 1/alpha at *any* time with probability at most alpha. The unit is a
seed (and prompt), never a frame or a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

ALPHA = 0.004
"""Error rate of the free-running stage; .002 and .004 go to the two local stages, .01 in all."""

TOLERATED = 2.0
"""A distance up to this multiple of the healthy ones is not called different."""

STAKES = (0.3, 0.6, 0.9)


def rank_evidence(candidate: Sequence[float], healthy: Sequence[Sequence[float]]) -> float:
    """E-value of "the candidate's distance exceeds the tolerated factor times what healthy ones do".

    One entry a seed; `healthy[s]` are the m members' distances at seed s. If c_s / 2 is exchangeable
    with h_s1..h_sm, it is the largest with probability at most 1 / (m + 1), so

        e_s(l) = 1 - l + l (m + 1) 1{c_s / 2 > max h_s}

    has mean at most 1; the average over l in {.3, .6, .9} of the products over seeds is an e-value.
    A distance that is not finite counts as exceeding; a seed without members counts for nothing.
    """
    totals = [1.0] * len(STAKES)
    for value, members in zip(candidate, healthy, strict=True):
        if not members:
            continue
        exceeds = not math.isfinite(value) or value / TOLERATED > max(members)
        for i, stake in enumerate(STAKES):
            totals[i] *= 1 - stake + stake * (len(members) + 1) * exceeds
    return sum(totals) / len(totals)


def seeds_to_decide(members: int, alpha: float = ALPHA) -> int:
    """How many seeds in a row must exceed before `rank_evidence` reaches 1/alpha.

    >>> seeds_to_decide(4), seeds_to_decide(8)
    (5, 3)
    """
    seeds = 1
    while rank_evidence([math.inf] * seeds, [[0.0] * members] * seeds) < 1 / alpha:
        seeds += 1
        if seeds > 1000:
            raise ValueError(f"{members} members can never decide")
    return seeds


def equivalence_evidence(differences: Sequence[float], margin: float, clip: float) -> float:
    """E-value of "the mean paired difference lies within +-margin" (its smaller side).

    Differences are clipped to +-clip, which needs clip > margin. K- = prod(1 + l_s (D_s + margin)) is a
    wealth against "mean <= -margin", K+ its mirror; the bets l_s are predictable, from the seeds
    before (Waudby-Smith and Ramdas 2023), kept in [0, 1 / (2 (clip + margin))] so that wealth stays
    positive. Both must grow: no split of alpha (intersection-union).
    """
    if not 0 < margin < clip:
        raise ValueError(f"margin {margin}: expected between 0 and the clip {clip}")
    values = np.clip(np.asarray(differences, dtype=np.float64), -clip, clip)
    return min(_wealth(values + margin, clip + margin), _wealth(margin - values, clip + margin))


def _wealth(gains: np.ndarray[tuple[int], np.dtype[np.float64]], bound: float) -> float:
    """prod(1 + l_s g_s) with l_s = mean / (variance + mean^2) of the gains before s, truncated."""
    wealth, total, squares = 1.0, 0.0, 0.0
    for count, gain in enumerate(gains):
        mean = (total + bound / 4) / (count + 1)
        second = (squares + bound**2 / 4) / (count + 1)
        bet = min(max(mean / max(second, 1e-12), 0.0), 1 / (2 * bound))
        wealth *= 1 + bet * float(gain)
        total, squares = total + float(gain), squares + float(gain) ** 2
    return wealth


def smallest_margin(differences: Sequence[float], clip: float, alpha: float = ALPHA) -> float:
    """The smallest margin that these differences prove, or infinity; found to 1 %."""
    low, high = 0.0, clip * 0.999
    if equivalence_evidence(differences, high, clip) < 1 / alpha:
        return math.inf
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        if middle > 0 and equivalence_evidence(differences, middle, clip) >= 1 / alpha:
            high = middle
        else:
            low = middle
    return high


def bimodal(values: Sequence[float]) -> bool:
    """Whether healthy distances fall into two groups with a gap wider than tenfold (in the log).

    A reference that flips between two videos has no single noise floor; the verdict must say so.
    """
    logs = np.sort(np.log10([value for value in values if value > 0 and math.isfinite(value)]))
    if len(logs) < 4:
        return False
    gaps = np.diff(logs)
    at = int(np.argmax(gaps))
    spread = max(float(np.ptp(logs[: at + 1])), float(np.ptp(logs[at + 1 :])), 0.1)
    return bool(gaps[at] > 1.0 and gaps[at] > 3 * spread and 0 < at + 1 < len(logs))
