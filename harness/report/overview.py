"""The overview: the matrix of case by pair, what can be filtered, and what each variant costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from harness.records import PairResult, RenderRecord
from harness.report.matrix import Matrix, Row
from harness.report.text import ABSENT
from harness.report.verdicts import VERDICTS, VerdictWord, severity

NameT = TypeVar("NameT", str, tuple[str, str, str])


@dataclass(frozen=True)
class GridRow:
    """One pair of variants over all cases; a cell is None where the run has no such pair."""

    candidate: str
    reference: str
    share: str
    cells: list[Row | None]


@dataclass(frozen=True)
class Grid:
    """Pairs by cases, the worst in the upper left corner."""

    cases: list[str]
    rows: list[GridRow]


@dataclass(frozen=True)
class VariantCost:
    """Medians of one variant over its finished renders of one case; ratios to the reference's."""

    case: str
    variant: str
    renders: int
    time_s: float | None
    peak_gib: float | None
    memory: str
    time_ratio: float | None
    peak_ratio: float | None
    is_reference: bool


def build_grid(matrix: Matrix) -> Grid:
    """Both axes are sorted by their worst verdict, then by name."""
    cells: dict[tuple[tuple[str, str, str], str], Row] = {}
    for row in reversed(matrix.rows):  # of two pairs with the same names the worse one stays
        cells[_pair_names(row.pair), row.pair.case] = row
    worst_of_pair = _worst(matrix.rows, lambda row: _pair_names(row.pair))
    worst_of_case = _worst(matrix.rows, lambda row: row.pair.case)
    cases = sorted(worst_of_case, key=lambda case: (worst_of_case[case], case))
    pairs = sorted(worst_of_pair, key=lambda names: (worst_of_pair[names], names))
    return Grid(
        cases=cases,
        rows=[
            GridRow(*names, cells=[cells.get((names, case)) for case in cases]) for names in pairs
        ],
    )


def count_verdicts(matrix: Matrix) -> list[tuple[VerdictWord, int]]:
    """The verdicts that this run has and how often, worst first."""
    counts = Counter(row.pair.verdict for row in matrix.rows)
    return [(VERDICTS[name], counts[name]) for name in VERDICTS if counts[name]]


def variant_costs(
    sides: Sequence[tuple[PairResult, list[RenderRecord], list[RenderRecord]]],
) -> list[VariantCost]:
    """What each variant costs for each case; the reference of a case comes first.

    `sides` has each pair with the renders of its reference and of its candidate.
    """
    found: dict[tuple[str, str], VariantCost] = {}
    for pair, reference, candidate in sides:
        base = found.get((pair.case, pair.reference))
        if base is None:
            base = _cost(pair.case, pair.reference, reference, None)
            if base.renders:
                found[pair.case, pair.reference] = base
        cost = _cost(pair.case, pair.candidate, candidate, base)
        if cost.renders:
            found.setdefault((pair.case, pair.candidate), cost)
    return sorted(found.values(), key=lambda cost: (cost.case, not cost.is_reference))


def _cost(
    case: str, variant: str, records: list[RenderRecord], base: VariantCost | None
) -> VariantCost:
    done = [record for record in records if record.status == "ok"]
    device = any("cuda" in record.peak_gib for record in done)
    kind = "cuda" if device else "host"
    times = [record.render_s for record in done if record.render_s is not None]
    peaks = [record.peak_gib[kind] for record in done if kind in record.peak_gib]
    time_s, peak = (median(values) if values else None for values in (times, peaks))
    comparable = base is not None and base.memory == kind
    return VariantCost(
        case=case,
        variant=variant,
        renders=len(done),
        time_s=time_s,
        peak_gib=peak,
        memory=kind,
        time_ratio=_ratio(time_s, base.time_s if base else None),
        peak_ratio=_ratio(peak, base.peak_gib if base and comparable else None),
        is_reference=base is None,
    )


def shown_ratio(ratio: float | None) -> str:
    """A ratio to the reference, with its sign of multiplication."""
    return ABSENT if ratio is None else f"{ratio:.2f} x"


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def _pair_names(pair: PairResult) -> tuple[str, str, str]:
    return pair.candidate, pair.reference, ", ".join(pair.share)


def _worst(rows: Sequence[Row], name: Callable[[Row], NameT]) -> dict[NameT, int]:
    found: dict[NameT, int] = {}
    for row in rows:
        found.setdefault(name(row), severity(row.pair.verdict))  # rows are sorted worst first
    return found
