"""The verdict matrix: one row for each pair, worst first, every number beside its noise floor."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from harness.metrics.base import Score
from harness.records import PairResult, RunResult, SeedDistances
from harness.report.cause import Cause, find_cause
from harness.report.costs import PairCosts
from harness.report.scores import MetricReading, read_metrics
from harness.report.text import ABSENT, counted, magnitude, score
from harness.report.verdicts import EXIT_MEANINGS, VERDICTS, Tone, VerdictWord, severity

_MAIN_METRICS = ("psnr", "ssim", "lpips", "lpips_alex_untrained")


@dataclass(frozen=True)
class Cell:
    """A number and the same number of the reference's own rerun, ready to show."""

    value: str
    floor: str = ABSENT


@dataclass(frozen=True)
class Row:
    """One pair in the matrix. `anchor` names it in every run, so that links stay good."""

    pair: PairResult
    costs: PairCosts | None

    @cached_property
    def anchor(self) -> str:
        pair = self.pair
        names = "\0".join([pair.case, pair.model, pair.reference, pair.candidate, *pair.share])
        return "pair-" + hashlib.sha256(names.encode()).hexdigest()[:12]

    @cached_property
    def cause(self) -> Cause | None:
        """What the pair's findings and evidence name as the cause of its difference."""
        return find_cause(self.pair)

    @property
    def page(self) -> str:
        """The pair's own page, seen from the overview."""
        return f"pairs/{self.anchor}.html"

    @property
    def name(self) -> str:
        """The pair in words."""
        pair = self.pair
        return f"{pair.case}, {pair.model}: {pair.candidate} vs {pair.reference}"

    @property
    def verdict(self) -> VerdictWord:
        return VERDICTS[self.pair.verdict]

    @cached_property
    def metrics(self) -> dict[str, MetricReading]:
        return read_metrics(self.pair)

    @property
    def worst_latents(self) -> float | None:
        """The largest final relative L2 over the seeds; None where there is none."""
        return _largest(self.pair.distances)

    @property
    def latents(self) -> Cell:
        return Cell(magnitude(self.worst_latents), magnitude(_largest(self.pair.floor)))

    def metric(self, name: str) -> Cell:
        """The worst seed; the word `unscored`, or an asterisk where only some seeds were scored."""
        reading = self.metrics.get(name)
        if reading is None or not reading.by_seed:
            return Cell(ABSENT)
        floor = _shown(reading.floor_worst) if reading.floor_worst else ABSENT
        if reading.worst is None:
            return Cell("unscored", floor)
        return Cell(_shown(reading.worst) + ("*" if reading.unscored else ""), floor)

    def scored(self, name: str) -> bool:
        """Whether any seed of this pair has a score of metric `name`."""
        reading = self.metrics.get(name)
        return reading is not None and reading.worst is not None

    @property
    def first_step(self) -> str:
        """The first differing step over the seeds, counted from 0."""
        if not self.pair.distances:
            return ABSENT
        steps = [d.first_step for d in self.pair.distances if d.first_step is not None]
        return str(min(steps)) if steps else "none"

    @property
    def time(self) -> str:
        return self.costs.render.ratio if self.costs else ABSENT

    @property
    def peak(self) -> str:
        peak = self.costs.peak if self.costs else None
        return peak.ratio if peak else ABSENT


@dataclass(frozen=True)
class Matrix:
    """All rows of a run, worst first, and the metrics that have a column."""

    rows: list[Row]
    metrics: list[str]
    exit_code: int

    @property
    def headline(self) -> str:
        """How many pairs have which verdict, and what the exit code says."""
        meaning = f"Exit code {self.exit_code}: {EXIT_MEANINGS.get(self.exit_code, 'unknown')}."
        if not self.rows:
            return f"Nothing was compared: this run has no pair. That is not a pass. {meaning}"
        counts = Counter(row.pair.verdict for row in self.rows)
        words = [f"{counts[name]} {name}" for name in VERDICTS if counts[name]]
        return f"{counted(len(self.rows), 'pair')}: {', '.join(words)}. {meaning}"

    def tone(self, tone: Tone) -> int:
        """How many pairs fail (`bad`), have no verdict (`open`), or are equivalent (`good`)."""
        return sum(row.verdict.tone == tone for row in self.rows)

    @property
    def reference(self) -> str | None:
        """The reference of every pair; None where pairs have different ones."""
        names = {row.pair.reference for row in self.rows}
        return names.pop() if len(names) == 1 else None

    @property
    def weights(self) -> list[str]:
        """One sentence for each learned metric: what it measured with."""
        used = {(r.title, r.weights) for row in self.rows for r in row.metrics.values()}
        return [f"{title} measured with {weights}." for title, weights in sorted(used) if weights]

    @property
    def unscored(self) -> list[str]:
        """One sentence for each metric and reason that left something unscored, with the remedy."""
        reasons = Counter(
            (reading.title, result.reason, result.remedy)
            for row in self.rows
            for reading in row.metrics.values()
            for result in reading.unscored
        )
        return [
            f"{title} is unscored for {counted(count, 'compared seed')}: {reason}. {remedy}"
            for (title, reason, remedy), count in reasons.items()
        ]


def build_matrix(result: RunResult, costs: Sequence[PairCosts] | None) -> Matrix:
    """The matrix of a run; `costs` has one entry for each pair, or is None where unknown."""
    known = costs if costs is not None else [None] * len(result.pairs)
    rows = [Row(pair, cost) for pair, cost in zip(result.pairs, known, strict=True)]
    rows.sort(key=lambda row: (severity(row.pair.verdict), -_distance(row)))
    scored = {name for row in rows for name in row.pair.scores}
    metrics = [name for name in _MAIN_METRICS if name in scored]
    return Matrix(rows, metrics, result.exit_code)


def _shown(result: Score) -> str:
    return score(result.value, result.unit)


def _distance(row: Row) -> float:
    worst = row.worst_latents
    return math.inf if worst is not None and math.isnan(worst) else (worst or 0.0)


def _largest(distances: Sequence[SeedDistances]) -> float | None:
    """The largest final distance, NaN counted as the largest of all."""
    values = [d.latents_rel_l2 for d in distances if d.latents_rel_l2 is not None]
    return max(values, key=lambda value: math.inf if math.isnan(value) else value, default=None)
