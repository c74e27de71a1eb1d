"""The chain of evidence as the page shows it: each check in words, and drawn beside its band."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.records import Evidence, Outcome, PairResult
from harness.report.cause import COMPONENTS, STAGES
from harness.report.noise_band import NoiseBand, draw_band
from harness.report.text import ABSENT, magnitude

_OUTCOMES: dict[Outcome, tuple[str, str]] = {
    "differs": ("✖", "differs"),
    "agrees": ("✓", "agrees"),
    "noted": ("i", "noted"),
    "unscored": ("∅", "unscored, which is never a pass"),
}


@dataclass(frozen=True)
class Link:
    """One check of the chain. `comparison` puts the value in proportion to its limit, in words."""

    check: Evidence
    stage: str
    component: str
    symbol: str
    outcome: str
    value: str
    limit: str
    healthy: str
    comparison: str
    band: NoiseBand | None


def read_chain(pair: PairResult) -> list[Link]:
    """Every check of `pair`, in the order in which it was made."""
    return [_link(check) for check in pair.evidence]


def _link(check: Evidence) -> Link:
    symbol, outcome = _OUTCOMES[check.outcome]
    return Link(
        check=check,
        stage=STAGES.get(check.stage, check.stage),
        component=COMPONENTS[check.component] if check.component else "",
        symbol=symbol,
        outcome=outcome,
        value=_with_unit(check.value, check.unit),
        limit=_with_unit(check.limit, check.unit),
        healthy=_range(check.healthy, check.unit),
        comparison=_comparison(check),
        band=draw_band(
            [check.value],
            check.limit,
            check.healthy,
            higher_is_worse=check.higher_is_worse,
        ),
    )


def _with_unit(value: float | None, unit: str) -> str:
    return ABSENT if value is None else f"{magnitude(value)} {unit}".strip()


def _range(healthy: list[float], unit: str) -> str:
    if not healthy:
        return ABSENT
    low, high = magnitude(min(healthy)), magnitude(max(healthy))
    return f"{low} {unit}".strip() if low == high else f"{low} to {high} {unit}".strip()


def _comparison(check: Evidence) -> str:
    """How value and limit lie to each other, worse or better, with their ratio where it has one."""
    value, limit = check.value, check.limit
    if value is None or limit is None:
        return ""
    if math.isnan(value) or math.isnan(limit):
        return "not a number, so it is not within any limit"
    over = value > limit if check.higher_is_worse else value < limit
    where = "worse than the limit" if over else "within the limit"
    if not (math.isfinite(value) and math.isfinite(limit)):
        return where
    if check.unit == "dB":
        return f"{abs(value - limit):.1f} dB {'worse than' if over else 'inside'} the limit"
    if check.higher_is_worse and value > 0 and limit > 0 and math.isfinite(value / limit):
        ratio = value / limit
        return f"{ratio:,.0f} x the limit" if ratio >= 10 else f"{ratio:.2g} x the limit, {where}"
    return where
