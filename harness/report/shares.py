"""The shares of the components as bars on one axis that has room for 0 and 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.records import Component, Share
from harness.report.text import magnitude


@dataclass(frozen=True)
class ShareBar:
    """One component. `bar` and `whisker` are (left, width) in percent; None where not finite."""

    component: Component
    shown: str
    interval: str
    zero: float
    bar: tuple[float, float] | None
    whisker: tuple[float, float] | None


def share_bars(shares: Sequence[Share]) -> list[ShareBar]:
    """The largest share first."""
    ends = [v for s in shares for v in (s.share, s.low, s.high) if math.isfinite(v)]
    low, high = min([0.0, *ends]), max([1.0, *ends])

    def at(value: float) -> float:
        return round(100 * (value / 2 - low / 2) / (high / 2 - low / 2), 2)

    def between(a: float, b: float) -> tuple[float, float] | None:
        if not (math.isfinite(a) and math.isfinite(b)):
            return None
        left, right = sorted((at(a), at(b)))
        return left, round(right - left, 2)

    ordered = sorted(shares, key=lambda s: -s.share if math.isfinite(s.share) else -math.inf)
    return [
        ShareBar(
            component=share.component,
            shown=_percent(share.share),
            interval=f"{_percent(share.low)} to {_percent(share.high)}",
            zero=at(0.0),
            bar=between(0.0, share.share),
            whisker=between(share.low, share.high),
        )
        for share in ordered
    ]


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %" if abs(value) < 1e6 else magnitude(value)
