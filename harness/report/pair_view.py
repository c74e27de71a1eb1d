"""Everything that the page shows of one pair, gathered before the template runs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any

from harness.errors import StoreError
from harness.metrics.base import Score, Unscored
from harness.records import RenderRecord, SeedDistances
from harness.report.chart import chart_remark, curves
from harness.report.costs import Cost
from harness.report.differences import Difference, find_differences
from harness.report.matrix import Row
from harness.report.pictures import Gallery, Painter
from harness.report.reading import RunFiles
from harness.report.scores import MetricReading
from harness.report.text import ABSENT, magnitude, score


@dataclass(frozen=True)
class Number:
    """One measured quantity: the worst seed beside the floor, and every seed."""

    title: str
    unit: str
    better: str
    worst: str
    where: str
    floor: str
    by_seed: list[str]


@dataclass(frozen=True)
class Failure:
    """A render that was not carried out, with what its stack said."""

    side: str
    seed: int
    status: str
    message: str
    trace: str | None


@dataclass(frozen=True)
class PairView:
    """One pair with its renders; `gallery` is None where `gallery_remark` says why."""

    row: Row
    reference: dict[int, RenderRecord]
    candidate: dict[int, RenderRecord]
    gallery: Gallery | None
    gallery_remark: str | None
    differences: list[Difference]

    @property
    def case(self) -> dict[str, Any] | None:
        """What was rendered, as the store has it."""
        records = [*self.reference.values(), *self.candidate.values()]
        return records[0].case if records else None

    @property
    def failures(self) -> list[Failure]:
        """Renders of either side that have no frames."""
        return [
            Failure(side, seed, record.status, record.message or "no message", record.trace)
            for side, records in (("reference", self.reference), ("candidate", self.candidate))
            for seed, record in records.items()
            if record.status != "ok"
        ]

    @cached_property
    def numbers(self) -> list[Number]:
        """Final latents first, then every metric; none where nothing was compared."""
        pair = self.row.pair
        if not pair.distances and not pair.scores:
            return []
        by_seed = {d.seed: d.latents_rel_l2 for d in pair.distances}
        latents = Number(
            title="final latents",
            unit="relative L2",
            better="lower",
            worst=self.row.latents.value,
            where=_first_difference(pair.distances),
            floor=self.row.latents.floor,
            by_seed=[magnitude(by_seed.get(seed)) for seed in pair.seeds],
        )
        return [latents, *(self._number(reading) for reading in self.row.metrics.values())]

    def _number(self, reading: MetricReading) -> Number:
        cell = self.row.metric(reading.name)
        worst = reading.worst
        return Number(
            title=reading.title,
            unit="" if worst is None or worst.unit == "1" else worst.unit.replace("_", " "),
            better=ABSENT if worst is None else _direction(worst),
            worst=cell.value,
            where=ABSENT if worst is None else _place(worst),
            floor=cell.floor,
            by_seed=[_seed_value(reading.by_seed.get(seed)) for seed in self.row.pair.seeds],
        )

    @cached_property
    def curves(self) -> list[dict[str, Any]]:
        """What the chart of divergence draws, as JSON values."""
        return [asdict(curve) for curve in curves(self.row.pair)]

    @property
    def per_step(self) -> list[list[str]]:
        """The chart's values as a table: a row for each step, a column for each curve."""
        every = [*self.row.pair.distances, *self.row.pair.floor]
        columns = (d.per_step_rel_l2 for d in every)
        return [list(map(magnitude, values)) for values in zip_longest(*columns)]

    @property
    def costs(self) -> list[Cost]:
        """What both sides cost, as far as renders recorded it."""
        return self.row.costs.rows if self.row.costs else []

    @property
    def chart_remark(self) -> str:
        """What the chart cannot show, or why there is none."""
        return chart_remark(self.row.pair)


def view_pair(row: Row, files: RunFiles, painter: Painter) -> PairView:
    """Gather one pair from the store and paint its frames."""
    reference = files.renders.of(row.pair, "reference")
    candidate = files.renders.of(row.pair, "candidate")
    shared = [s for s in row.pair.seeds if s in reference and s in candidate]
    finished = [s for s in shared if reference[s].status == candidate[s].status == "ok"]
    gallery, remark = (
        None,
        "No seed has finished renders on both sides, so there is nothing to see.",
    )
    if finished:
        seed = _worst_seed(finished, row.pair.distances)
        try:
            gallery = painter.gallery(row.anchor, seed, reference[seed], candidate[seed])
            remark = None
        except StoreError as error:
            remark = f"The frames cannot be shown: {error}"
    differences: list[Difference] = []
    if shared:
        a, b = reference[shared[0]], candidate[shared[0]]
        differences = find_differences(a, b, files.renders.pipelines(a, b))
    return PairView(row, reference, candidate, gallery, remark, differences)


def _worst_seed(seeds: list[int], distances: list[SeedDistances]) -> int:
    def size(seed: int) -> float:
        values = [d.latents_rel_l2 for d in distances if d.seed == seed]
        value = values[0] if values else None
        return math.inf if value is None or math.isnan(value) else value

    return max(seeds, key=size)


def _first_difference(distances: list[SeedDistances]) -> str:
    steps = [(d.first_step, d.seed) for d in distances if d.first_step is not None]
    if not steps:
        return "no step differs" if distances else ABSENT
    step, seed = min(steps)
    return f"first at step {step}, seed {seed}"


def _direction(result: Score) -> str:
    return "higher" if result.spec.higher_is_better else "lower"


def _place(result: Score) -> str:
    worst, region = result.worst_frame, result.worst_region
    text = f"frame {worst.index}: {score(worst.value, result.unit)}"
    if region is None:
        return text
    corner = f"x {region.x}, y {region.y}, {region.width} x {region.height} px"
    return f"{text}; frame {region.frame}, {corner}: {score(region.value, result.unit)}"


def _seed_value(result: Score | Unscored | None) -> str:
    if result is None:
        return ABSENT
    return "unscored" if isinstance(result, Unscored) else score(result.value, result.unit)
