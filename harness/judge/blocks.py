"""The first module that is wrong, from two scans of one component beside healthy ones.

Modules are looked at in the order in which they finish. What counts is the error that a module adds to
what comes before it: a harmless 6e-6 early on does not hide an attention that is off by 0.3, and neither
does an error that never leaves the module around it. If what the module was given differs already, the
code around it made that, so the search climbs to the module whose own input still agrees. It stops
below the component itself, whose name would say nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.judge.limits import COLLAPSE_FACTOR, relative
from harness.judge.measured import Answers
from harness.records import BlockDistance

LEAST_LIMIT = 2e-6
"""Of a module's output in float32, relative: sketches and single roundings stay below."""

SAME_VALUES = 1e-5
"""Two outputs whose norm and mean agree to this hold the same values, perhaps in another order."""


SPAN = 30.0
"""How many times more than an earlier module one must add to be named in its place. Chosen, not
measured: a harmless 6e-6 in the time embedding stands before an attention that is off by 0.33."""


MOST = 1e30
"""Stands for an error that is not finite, or of another size."""


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


def differs_in_run(answers: Answers, step: int) -> Place | None:
    """The first module that gave other in a run's own call than asked again by hand (`native_scan`, as
    "scan"), by more than it differs when asked twice; None where there is none, and where that call was
    given something else already."""
    names = "inputs", "outputs"
    by_hand = {
        f"{at}.{n}": answers.tensors[f"{source}.{n}"]
        for at, source in (("scan", "again.scan"), ("repeat.scan", "repeat.scan"))
        for n in names
    }
    facts = {"scan": answers.facts["again.scan"], "repeat.scan": answers.facts["repeat.scan"]}
    asked = Answers(answers.pipeline, by_hand, facts)
    rows = {row.name: row for row in _rows(asked, answers, ("repeat",), alike=True)}
    root = rows.get(_root(rows))
    if root is not None and root.given > root.limit:
        return None
    return locate(asked, answers, ("repeat",), step, alike=True)


@dataclass(frozen=True)
class _Row:
    name: str
    given: float
    came: float
    limit: float

    @property
    def wrong(self) -> bool:
        return self.came > self.limit


def locate(
    reference: Answers,
    candidate: Answers,
    members: Sequence[str],
    step: int | None,
    alike: bool = False,
) -> Place | None:
    """The wrong module of a scanned component that matters, or None where no watched module differs.

    `alike`: both are of one code base, so that values in another order or number are wrong there, too.
    """
    rows = _rows(reference, candidate, members, alike)
    scan = [
        BlockDistance(module=r.name, step=step or 0, value=_finite(r.came), limit=r.limit)
        for r in rows
    ]
    by_name = {row.name: row for row in rows}
    root = _root(by_name)
    first = next((row for row in rows if row.wrong), None)
    if first is None:
        return None
    chosen, before = _jump(rows, by_name)
    culprit, climbed = chosen, False
    while culprit.given > max(culprit.limit, SPAN * before):
        parent = _around(culprit.name, by_name)
        if parent in ("", root):
            break
        culprit, climbed = by_name[parent], True
    detail = f"first at {culprit.name}: relative {chosen.came:.2g}, limit {chosen.limit:.2g}"
    if climbed:
        detail += f"; what it hands to {chosen.name.removeprefix(culprit.name + '.')} differs"
    elif culprit.given > max(culprit.limit, SPAN * before):
        detail += "; what it is given differs"
    if chosen is not first:
        seen = "little comes of it" if _live(first, by_name) else "nothing around it shows that"
        far = f"by {first.came:.2g}, limit {first.limit:.2g}"
        detail += f"; {first.name} is off as well, {far}, and {seen}"
    return Place(culprit.name.partition("#")[0], detail, scan)


def _jump(rows: Sequence[_Row], by_name: Mapping[str, _Row]) -> tuple[_Row, float]:
    """The first module that adds an error of the size that the largest one adds, and the largest error
    before it. Only modules whose error gets out of what is around them count, where there are any."""
    wrong = [row for row in rows if row.wrong]
    live = [row for row in wrong if _live(row, by_name)] or wrong
    jumps: list[tuple[float, _Row, float]] = []
    before = 0.0
    for row in live:
        jumps.append((min(row.came, MOST) / max(row.limit, before), row, before))
        before = max(before, min(row.came, MOST))
    largest = max(jump for jump, _, _ in jumps)
    _, row, before = next(found for found in jumps if found[0] >= largest / SPAN)
    return row, before


def _live(row: _Row, by_name: Mapping[str, _Row]) -> bool:
    """Whether everything around a module differs with it."""
    name = row.name
    while name := _around(name, by_name):
        if not by_name[name].wrong:
            return False
    return True


def _around(name: str, by_name: Mapping[str, _Row]) -> str:
    """The nearest watched module around `name`; empty where there is none."""
    parent = (name.rpartition("#")[0] or name).rpartition(".")[0]
    while parent and parent not in by_name:
        parent = parent.rpartition(".")[0]
    return parent


def _root(names: Iterable[str]) -> str:
    """The component itself, around all other modules; empty where its own output is not looked at."""
    bare = {name.partition("#")[0] for name in names}
    shortest = min(bare, key=len, default="")
    return shortest if all(f"{name}.".startswith(f"{shortest}.") for name in bare) else ""


def _rows(
    reference: Answers, candidate: Answers, members: Sequence[str], alike: bool
) -> list[_Row]:
    a, b = _table(reference, "scan"), _table(candidate, "scan")
    healthy = [_table(reference, f"{member}.scan") for member in members]
    rows: list[_Row] = []
    for name, mine in a.items():
        other = b.get(name)
        if other is None:
            continue
        resized = other.moments[0] != mine.moments[0]
        if not alike and (resized or _reordered(mine, other)):
            continue
        band = [relative(mine.came, h[name].came) for h in healthy if name in h]
        limit = max([LEAST_LIMIT, *(COLLAPSE_FACTOR * v for v in band if math.isfinite(v))])
        came = math.inf if resized else relative(mine.came, other.came)
        if alike and not mine.moments[0]:
            continue  # no tensor came out on either side
        rows.append(_Row(name, relative(mine.given, other.given), came, limit))
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
