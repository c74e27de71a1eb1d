"""What a candidate costs beside its reference: time and memory, medians over finished renders."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

from harness.records import RenderRecord
from harness.report.text import ABSENT


@dataclass(frozen=True)
class Cost:
    """One quantity of both sides; None where no render recorded it."""

    title: str
    unit: str
    reference: float | None
    candidate: float | None

    @property
    def ratio(self) -> str:
        """Candidate over reference."""
        if self.reference is None or self.candidate is None or self.reference <= 0:
            return ABSENT
        return f"{self.candidate / self.reference:.2f}"

    def shown(self, value: float | None) -> str:
        """A value of either side with its unit."""
        return ABSENT if value is None else f"{value:.2f} {self.unit}"


@dataclass(frozen=True)
class PairCosts:
    """The costs of one pair; `rows` are those that any render recorded."""

    render: Cost
    opening: Cost
    peaks: dict[str, Cost]

    @property
    def peak(self) -> Cost | None:
        """Peak memory of the accelerator if both sides used one, else of the host."""
        both = {kind: c for kind, c in self.peaks.items() if c.ratio != ABSENT}
        return both.get("cuda", both.get("host"))

    @property
    def rows(self) -> list[Cost]:
        costs = [self.render, self.opening, *self.peaks.values()]
        return [c for c in costs if c.reference is not None or c.candidate is not None]


def compare_costs(reference: list[RenderRecord], candidate: list[RenderRecord]) -> PairCosts:
    """Costs of both sides of one pair."""

    def cost(title: str, unit: str, read: Callable[[RenderRecord], float | None]) -> Cost:
        return Cost(title, unit, _median(map(read, reference)), _median(map(read, candidate)))

    kinds = sorted({kind for record in (*reference, *candidate) for kind in record.peak_gib})
    return PairCosts(
        render=cost("render", "s", lambda record: record.render_s),
        opening=cost("opening the pipeline", "s", lambda record: record.open_s),
        peaks={kind: _peak(cost, kind) for kind in kinds},
    )


def _peak(
    cost: Callable[[str, str, Callable[[RenderRecord], float | None]], Cost], kind: str
) -> Cost:
    return cost(f"peak memory, {kind}", "GiB", lambda record: record.peak_gib.get(kind))


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
