"""Limits that a pair's own accepted history proposes, beside the limit in force.

A proposal is mean + k s of the logarithm over accepted runs: the one-sided tolerance limit that
covers 95 % of such runs with 95 % confidence (k from the non-central t distribution; Hahn and Meeker,
Statistical Intervals, 1991). It decides nothing: it shows where a limit could lie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev

from harness.records import EQUIVALENT, Evidence, PairResult
from harness.report.noise_band import NoiseBand, draw_band
from harness.report.text import ABSENT, magnitude

MINIMUM = 5
"""Accepted runs below which no limit is proposed."""


@dataclass(frozen=True)
class Proposal:
    """One check of a pair over the runs. `history` are the accepted values before the newest."""

    check: str
    unit: str
    value: str
    limit: str
    accepted: int
    proposed: str
    band: NoiseBand | None


def propose(history: Sequence[PairResult]) -> list[Proposal]:
    """Every measured check of the newest result that earlier runs measured too."""
    found: list[Proposal] = []
    for check in history[-1].evidence:
        if check.value is None:
            continue
        accepted = [
            value
            for pair in history[:-1]
            if pair.verdict in EQUIVALENT
            for value in _values(pair, check)
        ]
        if accepted:
            found.append(_proposal(check, accepted))
    return found


def tolerance_limit(values: Sequence[float]) -> float | None:
    """mean + k s of the logarithms; None for fewer than `MINIMUM` values or one that has no log."""
    if len(values) < MINIMUM or not all(math.isfinite(v) and v > 0 for v in values):
        return None
    logs = [math.log(value) for value in values]
    return math.exp(fmean(logs) + _k(len(logs)) * stdev(logs))


def _proposal(check: Evidence, accepted: list[float]) -> Proposal:
    proposed = tolerance_limit(accepted) if check.higher_is_worse else None
    return Proposal(
        check=check.check,
        unit=check.unit,
        value=magnitude(check.value),
        limit=magnitude(check.limit),
        accepted=len(accepted),
        proposed=ABSENT if proposed is None else magnitude(proposed),
        band=draw_band([check.value], check.limit, accepted, higher_is_worse=check.higher_is_worse),
    )


def _values(pair: PairResult, check: Evidence) -> list[float]:
    return [
        other.value
        for other in pair.evidence
        if (other.stage, other.check, other.component)
        == (check.stage, check.check, check.component)
        and other.value is not None
        and math.isfinite(other.value)
    ]


@cache
def _k(n: int) -> float:
    from scipy.stats import nct, norm  # a second: only where a history is long enough

    noncentrality = math.sqrt(n) * norm.ppf(0.95)
    return float(nct.ppf(0.95, n - 1, noncentrality) / math.sqrt(n))
