"""Which rows of the catalogue to run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from harness.errors import ParityError
from tests.selftest.catalogue import faults, healthy, pairs
from tests.selftest.row import Fault, Healthy
from tests.selftest.rows_pairs import Pair

Row = TypeVar("Row", Fault, Healthy, Pair)


def choose(only: str | None, sample: int | None) -> list[Fault | Healthy]:
    """Rows whose id matches `only`, thinned to about `sample` of each sort. Raises `ParityError`."""
    pattern = _pattern(only, sample)
    planted = [row for row in faults() if pattern.search(row.id)]
    harmless = [row for row in healthy() if pattern.search(row.id)]
    chosen = [*_thin(planted, sample), *_thin(harmless, sample)]
    if not chosen:
        raise ParityError(f"--only {only!r} matches no row of the catalogue")
    return chosen


def choose_pairs(only: str | None, sample: int | None) -> list[Pair]:
    """Pairs of faults whose id matches `only`, thinned to about `sample`. Raises `ParityError`."""
    pattern = _pattern(only, sample)
    chosen = _thin([row for row in pairs() if pattern.search(row.id)], sample)
    if not chosen:
        raise ParityError(f"--only {only!r} matches no pair of faults")
    return chosen


def _pattern(only: str | None, sample: int | None) -> re.Pattern[str]:
    if sample is not None and sample < 1:
        raise ParityError(f"--sample {sample}: expected at least 1")
    try:
        return re.compile(only or "")
    except re.error as error:
        raise ParityError(f"--only {only!r} is no regular expression: {error}") from error


def _thin(rows: Sequence[Row], sample: int | None) -> list[Row]:
    """`sample` rows in their order: the same share of every kind, and within it of every model."""
    if sample is None or len(rows) <= sample:
        return list(rows)
    sizes = Counter(group for row in rows for group in _groups(row))
    taken: Counter[str] = Counter()
    left = dict(enumerate(rows))
    for _ in range(sample):
        index = min(left, key=lambda i: [taken[g] / sizes[g] for g in _groups(left[i])])
        taken.update(_groups(left.pop(index)))
    return [row for index, row in enumerate(rows) if index not in left]


def _groups(row: Fault | Healthy | Pair) -> tuple[str, str]:
    kind = "pair" if isinstance(row, Pair) else row.kind
    return f"kind {kind}", f"{row.setting.backend} {row.setting.model} {row.setting.dtype}"
