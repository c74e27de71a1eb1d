"""A number drawn beside its noise band: where value, limit and healthy values lie on one small axis.

Only positions are worked out here, in percent of the axis; the template draws them. The axis is
logarithmic where the values span more than a decade. What is not finite stands at its end of the
axis, NaN at the worse end, so that it can never look small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_LOG_FROM_RATIO = 10.0
_LEFT, _RIGHT = 6.0, 94.0
_EDGES = (1.5, 98.5)


@dataclass(frozen=True)
class NoiseBand:
    """Positions in percent. `band` spans the healthy values, `ticks` are the single ones."""

    values: list[float]
    limit: float | None
    band: tuple[float, float] | None
    ticks: list[float]
    logarithmic: bool
    worse_is_right: bool

    @property
    def band_width(self) -> float:
        """Width of the band; never too thin to be seen."""
        return 0.0 if self.band is None else max(1.0, self.band[1] - self.band[0])


def draw_band(
    values: Sequence[float | None],
    limit: float | None,
    healthy: Sequence[float],
    *,
    higher_is_worse: bool = True,
) -> NoiseBand | None:
    """Place `values` beside `limit` and `healthy`; None where there is no value to draw.

    >>> band = draw_band([0.5], 1e-3, [1e-5, 1e-4])
    >>> band.logarithmic, band.values[0] > band.limit > band.band[1]
    (True, True, True)
    """
    shown = [value for value in values if value is not None]
    if not shown:
        return None
    scale = _Scale([*shown, *healthy, *([] if limit is None else [limit])], higher_is_worse)
    ticks = [scale.at(value) for value in healthy]
    return NoiseBand(
        values=[scale.at(value) for value in shown],
        limit=None if limit is None or math.isnan(limit) else scale.at(limit),
        band=(min(ticks), max(ticks)) if ticks else None,
        ticks=ticks,
        logarithmic=scale.logarithmic,
        worse_is_right=higher_is_worse,
    )


class _Scale:
    """A linear or logarithmic axis over the finite values, with room at both ends for the others."""

    def __init__(self, values: Sequence[float], higher_is_worse: bool) -> None:
        finite = [value for value in values if math.isfinite(value)]
        positive = [value for value in finite if value > 0]
        self.logarithmic = (
            bool(positive) and min(finite) >= 0 and max(positive) / min(positive) > _LOG_FROM_RATIO
        )
        self._worse = _EDGES[1] if higher_is_worse else _EDGES[0]
        spread = [math.log10(v) for v in positive] if self.logarithmic else finite
        self._low, self._high = min(spread, default=0.0), max(spread, default=0.0)

    def at(self, value: float) -> float:
        if math.isnan(value):
            return self._worse
        if math.isinf(value):
            return _EDGES[value > 0]
        if self.logarithmic:
            if value <= 0:
                return _EDGES[0]
            value = math.log10(value)
        # halved first, because the difference of two huge floats may overflow
        span = self._high / 2 - self._low / 2
        if span <= 0:
            return 50.0
        return round(_LEFT + (_RIGHT - _LEFT) * ((value / 2 - self._low / 2) / span), 2)
