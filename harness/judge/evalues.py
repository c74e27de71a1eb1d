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

CLIP = 1.25
"""Paired differences are clipped at this multiple of the margin: the nearer to 1, the fewer seeds prove
it, and the more a rare large difference is cut."""


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


def equivalence_evidence(differences: Sequence[float], margin: float) -> float:
    """E-value of "the mean paired difference lies within +-margin" (its smaller side).

    Differences are clipped to +-`CLIP` times the margin, so it is the clipped mean that is bounded.
    K- = prod(1 + l_s (D_s + margin)) is a wealth against "mean <= -margin", K+ its mirror; the bets
    l_s are predictable, from the seeds before (Waudby-Smith and Ramdas 2023), and kept where a factor
    is at least 1/2. Both must grow: no split of alpha (intersection-union).
    """
    if not margin > 0:
        raise ValueError(f"margin {margin}: expected more than 0")
    values = np.asarray(differences, dtype=np.float64) / margin
    values = np.where(np.isfinite(values), np.clip(values, -CLIP, CLIP), CLIP)
    return min(_wealth(values + 1), _wealth(1 - values))


def _wealth(gains: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """prod(1 + l_s g_s), l_s = mean / second moment of the gains before s, in units of the margin.

    Two seeds at equal values count before the first one, so that no bet rests on nothing.
    """
    most = 1 / (2 * (CLIP - 1))
    wealth, total, squares = 1.0, 2.0, 2.0
    for gain in gains.tolist():
        wealth *= 1 + min(max(total / squares, 0.0), most) * gain
        total, squares = total + gain, squares + gain**2
    return wealth


def smallest_margin(differences: Sequence[float], alpha: float = ALPHA) -> float:
    """The smallest margin that these differences prove, to 1 %; infinity where none is.

    Every margin has a test of its own whose error is bounded, so this one may be read off afterwards.
    """
    finite = all(math.isfinite(value) for value in differences)
    if not finite or len(differences) < seeds_to_prove(alpha):
        return math.inf
    high = max(1e-12, *(abs(value) for value in differences))
    low = 1e-6 * high
    while equivalence_evidence(differences, high) < 1 / alpha:
        low, high = high, 2 * high
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        if equivalence_evidence(differences, middle) >= 1 / alpha:
            high = middle
        else:
            low = middle
    return high


def seeds_to_prove(alpha: float = ALPHA) -> int:
    """How many seeds prove a margin where no difference is seen at all.

    >>> seeds_to_prove()
    8
    """
    seeds = 1
    while equivalence_evidence([0.0] * seeds, 1.0) < 1 / alpha:
        seeds += 1
    return seeds


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
