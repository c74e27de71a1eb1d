"""Per-step divergence as plain data for a chart with a logarithmic axis."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.records import PairResult, SeedDistances


@dataclass(frozen=True)
class Curve:
    """One seed's distance after every step; None where a logarithmic axis has no place for it."""

    side: str
    seed: int
    y: list[float | None]


def curves(pair: PairResult) -> list[Curve]:
    """The curves that have anything to draw, the candidate's before the rerun floor's."""
    every = [
        *(_curve("candidate", distances) for distances in pair.distances),
        *(_curve("rerun floor", distances) for distances in pair.floor),
    ]
    return [curve for curve in every if any(y is not None for y in curve.y)]


def chart_remark(pair: PairResult) -> str:
    """What the chart cannot show, or why there is none."""
    values = [value for d in pair.distances for value in d.per_step_rel_l2]
    floor = [value for d in pair.floor for value in d.per_step_rel_l2]
    if not values:
        return "There are no per-step distances: nothing was compared step by step."
    if not any(values):
        return "No step differs, so there is no divergence to draw."
    remarks: list[str] = []
    if zeros := values.count(0):
        remarks.append(f"{zeros} of {len(values)} values are 0 and have no place on this axis.")
    if bad := sum(not math.isfinite(value) for value in values):
        remarks.append(f"{bad} of {len(values)} values are not finite and are not drawn.")
    if floor and not any(floor):
        remarks.append("The rerun floor is 0 at every step.")
    return " ".join(remarks)


def _curve(side: str, distances: SeedDistances) -> Curve:
    drawn = [v if math.isfinite(v) and v > 0 else None for v in distances.per_step_rel_l2]
    return Curve(side, distances.seed, drawn)
