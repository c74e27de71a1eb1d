"""What an audit compared of all that the two checkpoints hold, and what it did not, with the reason.

tensors      each by each; those of a component that only one side was asked about are missing
settings     missing where one side is a bare weight file
tables       SAT's position tables: checked against the settings, or equal on both sides
files        everything else in the components' folders (variants): equal as files
tokenizers   among the files, and compared as functions (`tokenizers.py`)
"""

from __future__ import annotations

import filecmp
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from backends.checkpoints import Source
from backends.checkpoints.relation import bits_equal
from harness.audit.compare import Pair
from harness.audit.places import place
from harness.audit.tokenizers import Compared
from harness.records import Coverage
from harness.report.text import counted

_SIDES = ("reference", "candidate")


def coverage(
    a: Source,
    b: Source,
    pairs: list[Pair],
    unlike: Mapping[str, str],
    tokenizers: Iterable[Compared],
) -> list[Coverage]:
    """One row for each kind of thing that `a` or `b` has, whose tensors were compared in `pairs`.

    `unlike` are the files that differ (`unlike_files`), `tokenizers` what became of those among them.
    """
    rows = [
        _tensors(a, b, pairs),
        _settings(a, b),
        _tables(a, b),
        _files(a, b, unlike, tokenizers),
        _unread(a, b),
    ]
    return [row for row in rows if row.total]


def in_words(rows: list[Coverage], components: Iterable[str]) -> str:
    """The rows in one sentence: what was compared, and what was not."""
    tensors = next((row for row in rows if row.kind == "tensors"), None)
    said = [f"{tensors.compared} of {tensors.total} tensors compared"] if tensors else []
    said.append(f"components: {', '.join(components)}")
    said += [
        f"{row.kind}: {row.compared} of {row.total}" for row in rows if row.kind not in ("tensors",)
    ]
    left = [text for row in rows for text in row.missing]
    return f"{'; '.join(said)}; not compared: {'; '.join(left) or 'nothing'}"


def _tensors(a: Source, b: Source, pairs: list[Pair]) -> Coverage:
    names = {pair.name for pair in pairs}
    missing: list[str] = []
    left_out = 0
    for side, other, which in ((a, b, _SIDES[0]), (b, a, _SIDES[1])):
        for component in sorted(set(side.components) - {place(name).component for name in names}):
            count = sum(place(name).component == component for name in side.tensors)
            left_out += count
            missing.append(
                f"{component} ({counted(count, 'tensor')}): only the {which} holds it; name"
                f" the same component of both, or give {other.path} one"
            )
    alone = [pair.name for pair in pairs if pair.a is None or pair.b is None]
    if alone:
        missing.append(f"{counted(len(alone), 'tensor')} that one side alone has")
    total = len(pairs) + left_out
    return Coverage(kind="tensors", compared=len(pairs) - len(alone), total=total, missing=missing)


def _settings(a: Source, b: Source) -> Coverage:
    """The settings of both; a key that a format cannot say is fixed by the code that reads it."""
    stated = [len(side.configs or {}) for side in (a, b)]
    for side, which, count in ((a, _SIDES[0], stated[1]), (b, _SIDES[1], stated[0])):
        if side.configs is None and count:
            why = (
                f"settings: the {which} ({side.path}) has none; name a folder, or two weight files"
            )
            return Coverage(kind="settings", compared=0, total=count, missing=[why])
    return Coverage(kind="settings", compared=max(stated), total=max(stated))


def _tables(a: Source, b: Source) -> Coverage:
    missing: list[str] = []
    names = sorted(set(a.tables) | set(b.tables))
    for name in names:
        sides = [side.tables[name] for side in (a, b) if name in side.tables]
        if all(side.expected is not None or not side.read for side in sides):
            continue
        if len(sides) == 2 and bits_equal(sides[0].stored.load(), sides[1].stored.load()):
            continue
        missing.append(
            f"{name}: SAT stores it, Diffusers computes it, and there are no settings to check it by;"
            " name the model's folder"
        )
    return Coverage(
        kind="tables", compared=len(names) - len(missing), total=len(names), missing=missing
    )


def unlike_files(a: Source, b: Source) -> dict[str, str]:
    """The files that are not the same on both sides, by name, each with the reason. Reads them."""
    names = sorted(set(a.files) | set(b.files))
    return {name: why for name in names if (why := _unlike(name, a.files, b.files))}


def _files(
    a: Source, b: Source, unlike: Mapping[str, str], tokenizers: Iterable[Compared]
) -> Coverage:
    """Files as files. Those of a tokenizer that was compared as a function count, too, but of one in
    binary form on both sides the function says nothing, as a loader may read either of several files."""
    opened = {one.name: one.unopened for one in tokenizers}
    left = dict(unlike)
    for name in unlike:
        tokenizer = name.partition("/")[0]
        alone = name not in a.files or name not in b.files
        if tokenizer in opened and (alone or name.endswith(".json")):
            why = opened[tokenizer]
            left.pop(name) if why is None else left.update({name: f"the tokenizer {why}"})
    total = len(set(a.files) | set(b.files))
    missing = [f"{name}: {why}" for name, why in left.items()]
    return Coverage(kind="files", compared=total - len(missing), total=total, missing=missing)


def _unlike(name: str, a: Mapping[str, Path], b: Mapping[str, Path]) -> str | None:
    """Why a file cannot be taken for compared: it is on one side alone, or differs."""
    if name not in a or name not in b:
        return f"only the {_SIDES[name not in a]} has this file"
    if filecmp.cmp(a[name], b[name], shallow=False):
        return None
    if name.endswith(".json"):
        try:
            same = json.loads(a[name].read_bytes()) == json.loads(b[name].read_bytes())
        except ValueError:
            same = False
        if same:
            return None
    return "the two files differ, and what that changes is not known to this audit"


def _unread(a: Source, b: Source) -> Coverage:
    missing = [
        f"{which}'s {said}" for side, which in zip((a, b), _SIDES, strict=True)
        for said in side.unread
    ]  # fmt: skip
    return Coverage(kind="readable parts", compared=0, total=len(missing), missing=missing)
