"""Shares of the gap as bars on one axis that has room for 0 and 1."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.records import PairResult
from harness.report.cause import COMPONENTS
from harness.report.text import ABSENT, magnitude


@dataclass(frozen=True)
class ShareBar:
    """One component or policy. `bar` and `whisker` are (left, width) in percent; None where it has none
    or it is not finite."""

    title: str
    shown: str
    interval: str
    zero: float
    bar: tuple[float, float] | None
    whisker: tuple[float, float] | None


def share_bars(pair: PairResult) -> list[ShareBar]:
    """The components' shares of the gap, else those of the findings; the largest first."""
    shares = [(COMPONENTS[s.component], s.share, s.low, s.high) for s in pair.shares]
    if not shares:
        shares = [
            ((f.known or f.name).replace("_", " "), f.share, math.nan, math.nan)
            for f in pair.findings
            if f.share is not None
        ]
    ends = [v for share in shares for v in share[1:] if math.isfinite(v)]
    low, high = min([0.0, *ends]), max([1.0, *ends])

    def at(value: float) -> float:
        return round(100 * (value / 2 - low / 2) / (high / 2 - low / 2), 2)

    def between(a: float, b: float) -> tuple[float, float] | None:
        if not (math.isfinite(a) and math.isfinite(b)):
            return None
        left, right = sorted((at(a), at(b)))
        return left, round(right - left, 2)

    ordered = sorted(shares, key=lambda s: -s[1] if math.isfinite(s[1]) else -math.inf)
    return [
        ShareBar(
            title=title,
            shown=_percent(share),
            interval=_interval(bottom, top),
            zero=at(0.0),
            bar=between(0.0, share),
            whisker=between(bottom, top),
        )
        for title, share, bottom, top in ordered
    ]


def _interval(low: float, high: float) -> str:
    if math.isnan(low) and math.isnan(high):
        return ABSENT
    return f"{_percent(low)} to {_percent(high)}"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %" if abs(value) < 1e6 else magnitude(value)
