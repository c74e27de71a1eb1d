"""The first module that is wrong, from two scans of one component beside healthy ones.

Modules are looked at in the order in which they finish. The first whose output passes its limit is where
the difference appears; if what it was given differs already, the code around it made that, so the
search climbs to the module whose own input still agrees. It stops below the component itself, whose
name would say nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.judge.limits import COLLAPSE_FACTOR, relative
from harness.prober import Answers
from harness.records import BlockDistance

LEAST_LIMIT = 2e-6
"""Of a module's output in float32, relative: sketches and single roundings stay below."""

SAME_VALUES = 1e-5
"""Two outputs whose norm and mean agree to this hold the same values, perhaps in another order."""


@dataclass(frozen=True)
class Place:
    """Where a component first goes wrong: `module`, and in words what its surroundings say."""

    module: str
    detail: str
    scan: list[BlockDistance]


def first_non_finite(candidate: Answers, step: int) -> Place | None:
    """The first module that makes something not finite out of something finite."""
    for name, seen in _table(candidate, "scan").items():
        if seen.moments[0] and not np.isfinite(seen.came).all() and np.isfinite(seen.given).all():
            size = float(np.abs(seen.given).max())
            return Place(
                name.partition("#")[0],
                f"first not finite at {name}, step {step}; its input is finite (sketch up to"
                f" {size:.3g})",
                [BlockDistance(module=name, step=step, value=None, limit=None)],
            )
    return None


@dataclass(frozen=True)
class _Row:
    name: str
    given: float
    came: float
    limit: float

    @property
    def wrong(self) -> bool:
        return self.came > self.limit

    @property
    def given_wrong(self) -> bool:
        return self.given > self.limit


def locate(
    reference: Answers, candidate: Answers, members: Sequence[str], step: int | None
) -> Place | None:
    """The first wrong module of a scanned component, or None where no watched module differs."""
    rows = _rows(reference, candidate, members)
    scan = [
        BlockDistance(module=r.name, step=step or 0, value=_finite(r.came), limit=r.limit)
        for r in rows
    ]
    by_name = {row.name: row for row in rows}
    root = _root(by_name)
    first = next((row for row in rows if row.wrong), None)
    if first is None:
        return None
    culprit, climbed = first, False
    while culprit.given_wrong:
        parent = culprit.name.rpartition("#")[0] or culprit.name
        parent = parent.rpartition(".")[0]
        while parent and parent not in by_name:
            parent = parent.rpartition(".")[0]
        if parent in ("", root):
            break
        culprit, climbed = by_name[parent], True
    detail = f"first at {culprit.name}: relative {first.came:.2g}, limit {first.limit:.2g}"
    if culprit.given_wrong:
        detail += "; what it is given differs"
    elif climbed:
        detail += f"; what it hands to {first.name.removeprefix(culprit.name + '.')} differs"
    return Place(culprit.name.partition("#")[0], detail, scan)


def _root(names: Iterable[str]) -> str:
    """The component itself, around all other modules; empty where its own output is not looked at."""
    bare = {name.partition("#")[0] for name in names}
    shortest = min(bare, key=len, default="")
    return shortest if all(f"{name}.".startswith(f"{shortest}.") for name in bare) else ""


def _rows(reference: Answers, candidate: Answers, members: Sequence[str]) -> list[_Row]:
    a, b = _table(reference, "scan"), _table(candidate, "scan")
    healthy = [_table(reference, f"{member}.scan") for member in members]
    rows: list[_Row] = []
    for name, mine in a.items():
        other = b.get(name)
        if other is None or other.moments[0] != mine.moments[0] or _reordered(mine, other):
            continue
        band = [relative(mine.came, h[name].came) for h in healthy if name in h]
        limit = max([LEAST_LIMIT, *(COLLAPSE_FACTOR * v for v in band if math.isfinite(v))])
        rows.append(_Row(name, relative(mine.given, other.given),
                         relative(mine.came, other.came), limit))  # fmt: skip
    return rows


@dataclass(frozen=True)
class _Seen:
    given: NDArray[np.float32]
    came: NDArray[np.float32]
    moments: Sequence[float]


def _table(answers: Answers, question: str) -> dict[str, _Seen]:
    facts = answers.facts[question]
    inputs, outputs = answers.tensors[f"{question}.inputs"], answers.tensors[f"{question}.outputs"]
    rows = zip(facts["names"], inputs, outputs, facts["moments"], strict=True)
    return {name: _Seen(given, came, moments) for name, given, came, moments in rows}


def _reordered(a: _Seen, b: _Seen) -> bool:
    """Whether one stack holds the same values in another order."""
    near = all(
        math.isclose(x, y, rel_tol=SAME_VALUES, abs_tol=1e-12)
        for x, y in zip(a.moments, b.moments, strict=True)
    )
    return near and relative(a.came, b.came) > 0.1


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
