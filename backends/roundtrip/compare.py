"""Two sets of named tensors compared bit by bit, and each difference named by what makes such ones.

Pure: tensors in, records out. One tensor of each side is held at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from backends.checkpoints.relation import bits_equal, measure, relate
from backends.checkpoints.tensors import dtype_name

Kind = Literal[
    "missing", "added", "renamed", "shape", "dtype", "widened", "rounded", "unrounded", "values",
    "zero_sign", "setting", "copy", "frozen",
]  # fmt: skip
"""What happened to tensors: `rounded` went through a narrower dtype, `unrounded` is a more precise
copy of what was there, `copy` are the bits of another set of weights that lies beside. `widened` is
a wider dtype that holds the same values, `frozen` a component that is not trained, in the dtype that
its stack runs it in; neither is a change of the model."""

_NAMED = ("rounded", "unrounded", "zero_sign")
"""Relations of values that are a kind of change of their own."""


@dataclass(frozen=True)
class Change:
    """Tensors or settings that changed in one way: how many of how many, which, and how."""

    kind: Kind
    count: int
    of: int
    names: tuple[str, ...]
    detail: str


def compare_tensors(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    others: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> list[Change]:
    """What differs in `after` from `before`, most telling first; empty if every bit is equal.

    `others` are further sets of weights near `after` (an EMA, a master copy) by name: a changed
    state that equals one of them is named so.
    """
    renamed, prefixes = _renamings(set(before) - set(after), set(after) - set(before))
    found: dict[tuple[Kind, str], list[str]] = defaultdict(list)
    moved: list[tuple[str, float]] = []
    for name in sorted(before):
        target = renamed.get(name, name)
        if target not in after:
            found["missing", "not saved: a load fills it with something else, or fails"].append(
                name
            )
            continue
        old, new = (side.detach().cpu() for side in (before[name], after[target]))
        if target != name:
            found["renamed", prefixes[name]].append(name)
        if old.shape != new.shape:
            found["shape", f"{tuple(old.shape)} became {tuple(new.shape)}"].append(name)
            continue
        if old.dtype != new.dtype:
            wider = (
                torch.promote_types(old.dtype, new.dtype) == new.dtype and _values(old, new) is None
            )
            detail = f"{dtype_name(old)} became {dtype_name(new)}"
            found["widened" if wider else "dtype", detail].append(name)
        what = _values(old, new)
        if what is not None:
            found[what].append(name)
            if what[0] != "zero_sign" and old.is_floating_point():
                moved.append((name, measure(old, new).rel_l2))
    known = {*before, *renamed.values()}
    for name in sorted(set(after) - known):
        found["added", "was not there before"].append(name)
    changes = [
        Change(kind, len(names), len(before), tuple(names), _detail(kind, detail, names, moved))
        for (kind, detail), names in found.items()
    ]
    changed = [name for name, _ in moved]
    for other, tensors in (others or {}).items():
        if changed and _same(changed, renamed, after, tensors):
            detail = f"the changed tensors are those of {other} to the bit: the two were mixed up"
            changes.append(Change("copy", len(changed), len(before), tuple(changed), detail))
    order: list[Kind] = ["missing", "renamed", "copy", "shape", "dtype", "unrounded", "rounded"]
    return sorted(changes, key=lambda c: order.index(c.kind) if c.kind in order else len(order))


def matters(changes: Iterable[Change]) -> bool:
    """Whether something changed that is more than a dtype."""
    return any(change.kind not in ("widened", "frozen") for change in changes)


def compare_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Settings that differ, one record each."""
    names = sorted({*before, *after})
    return [
        Change(
            "setting", 1, len(names), (name,), f"{_said(before, name)} became {_said(after, name)}"
        )
        for name in names
        if _said(before, name) != _said(after, name)
    ]


def _said(settings: Mapping[str, Any], name: str) -> str:
    return repr(settings[name]) if name in settings else "nothing"


def _values(old: Tensor, new: Tensor) -> tuple[Kind, str] | None:
    """How the values differ, apart from their dtype; None if the numbers are the same bits."""
    if bits_equal(old, new):
        return None
    relation = relate(old, new)
    if relation.kind == "same_values":
        return None
    kind: Kind = relation.kind if relation.kind in _NAMED else "values"
    if relation.kind in ("drift", "other"):
        return kind, "other values"
    return kind, relation.words.replace("the reference", "the values before")


def _detail(kind: Kind, detail: str, names: list[str], moved: list[tuple[str, float]]) -> str:
    wanted = set(names)
    gaps = [gap for name, gap in moved if name in wanted]
    if kind not in ("values", "rounded", "unrounded") or not gaps:
        return detail
    return f"{detail}; relative L2 {min(gaps):.2g} to {max(gaps):.2g}"


def _same(
    names: list[str],
    renamed: Mapping[str, str],
    after: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
) -> bool:
    targets = [renamed.get(name, name) for name in names]
    return all(name in other for name in targets) and all(
        bits_equal(after[name], other[name]) for name in targets
    )


def _renamings(missing: set[str], new: set[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Names that only had their beginning changed, and in words how.

    A renaming must explain at least half of the names that are missing.
    """
    if not missing or not new:
        return {}, {}
    for candidate in sorted(missing)[:3]:
        for old, fresh in _prefixes(candidate, new):
            pairs = {
                name: fresh + name.removeprefix(old)
                for name in missing
                if name.startswith(old) and fresh + name.removeprefix(old) in new
            }
            if 2 * len(pairs) >= len(missing):
                words = f"{old or 'no prefix'} became {fresh or 'no prefix'}"
                return pairs, dict.fromkeys(pairs, words)
    return {}, {}


def _prefixes(name: str, candidates: Iterable[str]) -> list[tuple[str, str]]:
    """Ways to turn `name` into one of `candidates` by another beginning, smallest change first."""
    ways: set[tuple[str, str]] = set()
    for other in candidates:
        shared = 0
        for a, b in zip(reversed(name), reversed(other), strict=False):
            if a != b:
                break
            shared += 1
        tail = name[len(name) - shared :]
        # The shared end begins with a whole part of the name, or after its first broken one.
        starts = (n[: len(n) - shared] for n in (name, other))
        whole = all(not start or start.endswith((".", "/")) for start in starts)
        cut = 0 if whole else tail.find(".") + 1
        if tail[cut:].count(".") >= 1:
            ways.add((name[: len(name) - shared + cut], other[: len(other) - shared + cut]))
    return sorted(ways, key=lambda way: len(way[0]) + len(way[1]))
