"""What the loops of two finished renders handed to their components, call by call.

The latents of two runs drift apart, so an argument that holds them is held against its own run's
latents; text against the embeddings that the run was to use; all else against the other side's.
What the decoder is given is covered where frames are held against their own final latents decoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from backends.base import ScheduleTable
from backends.stages.sketch import sketch_array
from harness.judge.arguments import (
    TABLE_LIMIT,
    UNITS,
    Array,
    Called,
    Difference,
    Given,
    Seen,
    difference,
    paired,
)
from harness.judge.limits import UNIT_ROUNDOFF

SAME_DRIFT = 0.05
"""How far, relatively, an argument that no side takes straight from its latents may lie from them on one
side and the other."""


@dataclass(frozen=True)
class Handed:
    """What one render handed out: its calls, the schedule that it was to follow, and its text embeddings
    (2, L, D), unconditional first."""

    calls: Sequence[Called]
    table: ScheduleTable
    text: Array


def judge_native_arguments(
    role: str, a: Handed | None, b: Handed | None, roles: tuple[Roles, Roles], alike: bool
) -> Seen:
    """Compare the calls of render `b` of side `role` with those of the reference's render `a`.

    `roles` says for each side which argument of its transformer holds what (`Called.roles`).
    """
    seen = Seen(f"native.{role}.arguments.")
    if a is None or b is None:
        seen.missing("the run", "arguments", "not recorded; render again in a fresh store")
        return seen
    schedules_agree = a.table.timesteps == b.table.timesteps
    for component in dict.fromkeys(call.component for call in a.calls):
        if component.endswith(".decode"):
            continue
        ours = [call for call in a.calls if call.component == component]
        theirs = [call for call in b.calls if call.component == component]
        for x, y in paired(ours, theirs):
            if component != "transformer":
                seen.compare(x, y, alike)
                continue
            first, second = (
                replace(call, roles={**call.roles, **known})
                for call, known in zip((x, y), roles, strict=True)
            )
            told = _of_roles(first, second, b, schedules_agree)
            for name, found in told.items():
                text = name == roles[0].get("text")
                seen.say(component, name, found, x.label, text=text)
            seen.compare(first, second, alike, skip=told)
    return seen


Roles = Mapping[str, str]


def _of_roles(a: Called, b: Called, run: Handed, scheduled: bool) -> dict[str, Difference | None]:
    """The arguments of `b`, under the names of `a`, that are held against their own `run`.

    Timesteps only where the two schedules are not the same (`scheduled`).
    """
    found: dict[str, Difference | None] = {}
    for role, name in a.roles.items():
        mine, other = a.arguments.get(name), b.arguments.get(b.roles.get(role, name))
        if mine is None or other is None:
            continue
        if role == "latents":
            found[name] = _drift(name, mine, other)
        elif role == "text":
            found[name] = _text(name, other, run.text)
        elif role == "timestep" and not scheduled and a.label.isdigit():
            found[name] = _timestep(name, other, run.table.timesteps[int(a.label)])
    return found


def _drift(name: str, a: Given, b: Given) -> Difference | None:
    mine, other = (float(each.fact.get("carried", np.inf)) for each in (a, b))
    limit = max(TABLE_LIMIT, UNITS * UNIT_ROUNDOFF.get(b.fact.get("dtype", ""), 0.0))
    if other <= limit or abs(other - mine) <= limit + SAME_DRIFT * mine:
        return None
    told = f"it is not the latents of its run, but lies {other:.2g} of them away"
    return Difference(name, True, told, other, limit)


def _text(name: str, given: Given, text: Array) -> Difference | None:
    if given.rows is None or len(given.rows) > len(text):
        return Difference(name, False, "it is no text embedding", float("inf"), 0.0)
    flat = text[len(text) - len(given.rows) :].reshape(len(given.rows), -1)
    whole = given.fact["whole"]
    rows = flat if whole else np.stack([sketch_array(row) for row in flat])
    expected = Given({**given.fact, "digest": "", "shape": given.fact["shape"]}, rows)
    found = difference(name, expected, given)
    if found is None:
        return None
    told = found.told.replace("the reference gives", "its run was to use")
    return Difference(name, found.grave, told.replace("the reference's", "that of its run"),
                      found.value, found.limit)  # fmt: skip


def _timestep(name: str, given: Given, asked: int) -> Difference | None:
    if given.rows is None:
        return None
    expected = Given({**given.fact, "digest": ""}, np.full_like(given.rows, asked))
    return difference(name, expected, given)
