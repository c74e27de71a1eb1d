"""How near healthy configurations come to the limits, and what that says about false alarms.

A hundred healthy configurations cannot show a rate of one in a thousand. Their distances from the limits
can: log(value / limit) of each check is taken as normal over the healthy configurations, and its tail
beyond 0 is the rate at which this check would call a healthy one a bug.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, median, stdev

from harness.judge.evalues import ALPHA
from harness.records import PairResult

FEWEST = 8
"""Configurations in which a check was made, below which nothing is said about its tail."""


def margins(pair: PairResult) -> dict[str, float]:
    """The largest value / limit of each check of `pair` that has both. Checks whose limit is 0 demand
    equal bits and have no margin; the free-running ones are governed by the error rate of their e-value.

    A check that failed has a margin above 1, or infinity.
    """
    found: dict[str, float] = {}
    for evidence in pair.evidence:
        value, limit = evidence.value, evidence.limit
        if evidence.stage in ("free", "statistics") or value is None or not limit:
            continue
        ratio = value / limit if math.isfinite(value) else math.inf
        found[evidence.check] = max(ratio, found.get(evidence.check, 0.0))
    return found


@dataclass(frozen=True)
class Tail:
    """One check over the healthy configurations: `largest` and `typical` value / limit, and the `rate`
    of false alarms that the normal tail of log(value / limit) gives; None with too few values."""

    check: str
    count: int
    typical: float
    largest: float
    rate: float | None


def tails(found: Sequence[dict[str, float]]) -> list[Tail]:
    """Every check's tail, the largest first. A value of 0 lies at no distance and takes no part in the
    fit, only in the share of configurations that the rate is taken over."""
    by_check: defaultdict[str, list[float]] = defaultdict(list)
    for one in found:
        for check, ratio in one.items():
            by_check[check].append(ratio)
    every = [_tail(check, ratios) for check, ratios in by_check.items()]
    return sorted(every, key=lambda tail: -tail.largest)


def _tail(check: str, ratios: list[float]) -> Tail:
    logs = [math.log(ratio) for ratio in ratios if ratio > 0]
    rate: float | None = None
    if not logs and len(ratios) >= FEWEST:
        rate = 0.0
    elif len(logs) >= FEWEST:
        beyond = 1 - NormalDist(fmean(logs), max(stdev(logs), 1e-9)).cdf(0.0)
        rate = beyond * len(logs) / len(ratios)
    return Tail(check, len(ratios), median(ratios), max(ratios), rate)


def whole_rate(every: Sequence[Tail]) -> float:
    """The rate of the whole procedure: every check's, as if no two alarms ever came together, and the
    error rate of the free-running stage."""
    return sum(tail.rate or 0.0 for tail in every) + ALPHA


def section(found: Sequence[dict[str, float]]) -> list[str]:
    """Lines of Markdown: the table, and what it adds up to; nothing without margins."""
    every = tails(found)
    if not every:
        return []
    lines = [
        "", "## How near healthy configurations come to the limits", "",
        "| check | configurations | typical value / limit | largest | false alarms, from the tail |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    for tail in every:
        rate = "too few" if tail.rate is None else f"{tail.rate:.1e}"
        lines.append(
            f"| {tail.check} | {tail.count} | {tail.typical:.2g} | {tail.largest:.2g} | {rate} |"
        )
    return [
        *lines, "",
        f"All checks together, and {ALPHA:g} for the free-running stage: {whole_rate(every):.2%}.",
    ]  # fmt: skip
