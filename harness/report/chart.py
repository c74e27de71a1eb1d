"""What the charts draw, as JSON values: curves by step, curves by frame, and the scan of modules.

Infinities and NaN have no place on an axis: they become None, and a remark counts them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.metrics.base import Score
from harness.records import BlockDistance, PairResult, SeedDistances
from harness.report.cause import first_over
from harness.report.film import Film
from harness.report.scores import MetricReading

Plain = dict[str, object]


@dataclass(frozen=True)
class Curve:
    """One seed's values; `start` is the step or frame of the first one."""

    side: str
    seed: int
    y: list[float | None]
    start: int = 0


@dataclass(frozen=True)
class FrameChart:
    """One quantity frame by frame. `better` is `higher` or `lower`."""

    title: str
    unit: str
    better: str
    curves: list[Curve]


def step_curves(pair: PairResult) -> list[Curve]:
    """Distance after every step, the candidate's before the rerun floor's; only what can be drawn."""
    every = [
        *(_steps("candidate", distances) for distances in pair.distances),
        *(_steps("rerun floor", distances) for distances in pair.floor),
    ]
    return [curve for curve in every if any(y is not None for y in curve.y)]


def step_remark(pair: PairResult) -> str:
    """What the chart by step cannot show, or why there is none."""
    values = [value for d in pair.distances for value in d.per_step_rel_l2]
    floor = [value for d in pair.floor for value in d.per_step_rel_l2]
    if not values:
        return "There are no per-step distances: nothing was compared step by step."
    if not any(values):
        return "No step differs, so there is no divergence to draw."
    remarks: list[str] = []
    if zeros := values.count(0):
        remarks.append(f"{zeros} of {len(values)} values are 0 and have no place on this axis.")
    remarks += _not_finite(values)
    if floor and not any(floor):
        remarks.append("The rerun floor is 0 at every step.")
    return " ".join(remarks)


def frame_charts(readings: Iterable[MetricReading], films: Sequence[Film]) -> list[FrameChart]:
    """Every metric that has a value for each frame, then the largest difference of the pixels."""
    charts = [_metric(reading) for reading in readings]
    pixels = [Curve("candidate", f.seed, list(f.largest)) for f in films if f.largest]
    charts.append(FrameChart("largest pixel difference", "grey levels", "lower", pixels))
    return [c for c in charts if any(y is not None for curve in c.curves for y in curve.y)]


def block_chart(blocks: Sequence[BlockDistance]) -> Plain:
    """The scan of modules, one curve for each step, the limit beside it, and the first one over."""
    first = first_over(list(blocks))
    modules = list(dict.fromkeys(block.module for block in blocks))
    steps = sorted({block.step for block in blocks})
    of = {(block.step, block.module): block for block in blocks}

    def row(step: int, field: str) -> list[float | None]:
        found = [of.get((step, module)) for module in modules]
        return [_positive(getattr(block, field)) if block else None for block in found]

    return {
        "modules": modules,
        "steps": [
            {
                "step": step,
                "value": row(step, "value"),
                "limit": row(step, "limit"),
                "equal": [bool((b := of.get((step, m))) and b.value == 0) for m in modules],
            }
            for step in steps
        ],
        "first": None if first is None else {"module": first.module, "step": first.step},
    }


def _steps(side: str, distances: SeedDistances) -> Curve:
    return Curve(side, distances.seed, [_positive(v) for v in distances.per_step_rel_l2])


def _metric(reading: MetricReading) -> FrameChart:
    scores = [(s, r) for s, r in reading.by_seed.items() if isinstance(r, Score)]
    floor = [
        (seed, result)
        for seed, result in zip(reading.by_seed, reading.floor, strict=False)
        if isinstance(result, Score)
    ]
    unit, higher = "", False
    if scores:
        unit, higher = scores[0][1].unit, scores[0][1].spec.higher_is_better
    curves = [_frames("candidate", seed, result) for seed, result in scores]
    again = [_frames("rerun floor", seed, result) for seed, result in floor]
    curves += [curve for curve in again if any(value is not None for value in curve.y)]
    shown_unit = "" if unit == "1" else unit.replace("_", " ")
    return FrameChart(reading.title, shown_unit, "higher" if higher else "lower", curves)


def _frames(side: str, seed: int, result: Score) -> Curve:
    drawn = [value if math.isfinite(value) else None for value in result.per_frame]
    return Curve(side, seed, drawn, result.first_frame)


def _positive(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) and value > 0 else None


def _not_finite(values: Sequence[float]) -> list[str]:
    bad = sum(not math.isfinite(value) for value in values)
    return [f"{bad} of {len(values)} values are not finite and are not drawn."] if bad else []
