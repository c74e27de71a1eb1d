"""Everything that the page shows of one pair, gathered before the template runs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any

from harness.errors import StoreError
from harness.metrics.base import Score, Unscored
from harness.records import Finding, PairResult, RenderRecord, SeedDistances
from harness.report.chart import block_chart, frame_charts, step_curves, step_remark
from harness.report.costs import Cost
from harness.report.differences import Difference, find_differences
from harness.report.evidence import Stage, by_stage, read_chain
from harness.report.film import Film, Projector, seeds_to_show
from harness.report.matrix import Row
from harness.report.noise_band import NoiseBand, draw_band
from harness.report.reading import RunFiles
from harness.report.reproduce import command_of_pair
from harness.report.scores import MetricReading
from harness.report.shares import ShareBar, share_bars
from harness.report.text import ABSENT, magnitude, score
from harness.report.weights_audit import WeightsRow, audit_weights


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
    band: NoiseBand | None


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
    """One pair with its renders; `films` is empty where `film_remark` says why."""

    row: Row
    reference: dict[int, RenderRecord]
    candidate: dict[int, RenderRecord]
    films: list[Film]
    film_remark: str
    differences: list[Difference]
    weights: list[WeightsRow]
    hazards: list[Finding]
    command: str | None

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
    def stages(self) -> list[Stage]:
        """The chain of evidence."""
        return by_stage(read_chain(self.row.pair))

    @cached_property
    def numbers(self) -> list[Number]:
        """Final latents first, then every metric; none where nothing was compared."""
        pair = self.row.pair
        if not pair.distances and not pair.scores:
            return []
        by_seed = {d.seed: d.latents_rel_l2 for d in pair.distances}
        healthy = [*pair.floor, *(d for member in pair.ensemble.values() for d in member)]
        band = [d.latents_rel_l2 for d in healthy if d.latents_rel_l2 is not None]
        latents = Number(
            title="final latents",
            unit="relative L2",
            better="lower",
            worst=self.row.latents.value,
            where=_first_difference(pair.distances),
            floor=self.row.latents.floor,
            by_seed=[magnitude(by_seed.get(seed)) for seed in pair.seeds],
            band=draw_band(list(by_seed.values()), None, band),
        )
        return [latents, *(self._number(reading) for reading in self.row.metrics.values())]

    def _number(self, reading: MetricReading) -> Number:
        cell = self.row.metric(reading.name)
        worst = reading.worst
        values = [r.value for r in reading.by_seed.values() if isinstance(r, Score)]
        higher_is_worse = worst is None or not worst.spec.higher_is_better
        return Number(
            title=reading.title,
            unit="" if worst is None or worst.unit == "1" else worst.unit.replace("_", " "),
            better=ABSENT if worst is None else _direction(worst),
            worst=cell.value,
            where=ABSENT if worst is None else _place(worst),
            floor=cell.floor,
            by_seed=[_seed_value(reading.by_seed.get(seed)) for seed in self.row.pair.seeds],
            band=draw_band(values, None, reading.band, higher_is_worse=higher_is_worse),
        )

    @property
    def step_remark(self) -> str:
        """What the chart by step cannot show, or why there is none."""
        return step_remark(self.row.pair)

    @property
    def per_step(self) -> list[list[str]]:
        """The chart by step as a table: a row for each step, a column for each curve."""
        every = [*self.row.pair.distances, *self.row.pair.floor]
        columns = (d.per_step_rel_l2 for d in every)
        return [list(map(magnitude, values)) for values in zip_longest(*columns)]

    @cached_property
    def shares(self) -> list[ShareBar]:
        """What the gap is made of, as far as that was measured."""
        return share_bars(self.row.pair)

    @property
    def costs(self) -> list[Cost]:
        """What both sides cost, as far as renders recorded it."""
        return self.row.costs.rows if self.row.costs else []

    @cached_property
    def data(self) -> dict[str, Any]:
        """What the page's scripts draw and play, as JSON values; no number in it is not finite."""
        pair = self.row.pair
        return {
            "films": [asdict(film) for film in self.films],
            "steps": [asdict(curve) for curve in step_curves(pair)],
            "frames": [
                asdict(chart) for chart in frame_charts(self.row.metrics.values(), self.films)
            ],
            "blocks": block_chart(pair.blocks) if pair.blocks else None,
        }

    @property
    def has_charts(self) -> bool:
        """Whether the page needs the chart library."""
        return bool(self.data["steps"] or self.data["frames"] or self.data["blocks"])


def view_pair(row: Row, files: RunFiles, projector: Projector) -> PairView:
    """Gather one pair from the store and write its frames."""
    reference = files.renders.of(row.pair, "reference")
    candidate = files.renders.of(row.pair, "candidate")
    shared = [s for s in row.pair.seeds if s in reference and s in candidate]
    films, remark = _films(row, reference, candidate, projector)
    differences: list[Difference] = []
    weights: list[WeightsRow] = []
    if shared:
        a, b = reference[shared[0]], candidate[shared[0]]
        pipelines = files.renders.pipelines(a, b)
        differences = find_differences(a, b, pipelines)
        weights = audit_weights(*pipelines) if pipelines else []
    return PairView(
        row=row,
        reference=reference,
        candidate=candidate,
        films=films,
        film_remark=remark,
        differences=differences,
        weights=weights,
        hazards=[h for h in files.result.hazards if _concerns(h, row.pair)],
        command=command_of_pair(files.result, row.pair),
    )


def _concerns(hazard: Finding, pair: PairResult) -> bool:
    """Whether a warning of the run is about this pair: by the key it names, or the sides it names."""
    own = (f"cases.{pair.case}.", f"candidates.{pair.candidate}.", "reference.")
    sides = f"{pair.candidate} against {pair.reference}:"
    return hazard.name.startswith(own) or hazard.detail.startswith((sides, f"model {pair.model}:"))


def _films(
    row: Row,
    reference: dict[int, RenderRecord],
    candidate: dict[int, RenderRecord],
    projector: Projector,
) -> tuple[list[Film], str]:
    """The seeds to show, the worst first, and what is not shown and why."""
    finished = [
        seed
        for seed in row.pair.seeds
        if (a := reference.get(seed))
        and (b := candidate.get(seed))
        and a.status == b.status == "ok"
    ]
    if not finished:
        return [], "No seed has finished renders on both sides, so there is nothing to play."
    worst = _worst_seed(finished, row.pair.distances)
    frames = reference[worst].frames
    size = frames.frames * frames.height * frames.width if frames else 0
    shown = seeds_to_show(finished, worst, size)
    remark = ""
    if left_out := len(finished) - len(shown):
        remark = (
            f"{left_out} of {len(finished)} seeds are not on this page, because their frames are"
            " large; the worst seed is. The store has them all, without loss."
        )
    try:
        return [projector.film(s, reference[s], candidate[s]) for s in shown], remark
    except StoreError as error:
        return [], f"The frames cannot be shown: {error}"


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
