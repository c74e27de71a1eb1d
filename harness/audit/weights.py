"""Findings about weights: what the pairs' relations say together, in sentences for a person."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from harness.audit.broken import damaged_findings, scale_findings
from harness.audit.compare import Pair
from harness.audit.drift import drifted
from harness.audit.places import (
    blocks_in_words,
    listed,
    module,
    place,
    reading_order,
    record_component,
    single_block,
)
from harness.records import Finding
from harness.report.text import counted

_CONVERT = "convert again with `parity convert`, which proves every tensor to the bit"
_OWN_PLACE = "Take this part again from the checkpoint that the rest came from"


def weight_findings(every: list[Pair]) -> list[Finding]:
    """All findings about tensors that have none yet, worst first."""
    blocks = _block_counts(every)
    pairs = [pair for pair in every if not pair.told]
    return [
        *_absent(pairs),
        *damaged_findings(pairs),
        *scale_findings(pairs),
        *_foreign(pairs, blocks),
        *_exchanged(pairs, blocks),
        *_rearranged(pairs, blocks),
        *drifted([pair for pair in pairs if _kind(pair) == "drift"]),
        *_rounded(pairs),
    ]


def _kind(pair: Pair) -> str | None:
    return pair.relation.kind if pair.relation else None


def _block_counts(pairs: list[Pair]) -> dict[str, int]:
    """How many numbered modules each generic name has."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        where = place(pair.name)
        if where.block:
            found[where.generic].add(where.block)
    return {generic: len(blocks) for generic, blocks in found.items()}


def _absent(pairs: list[Pair]) -> Iterable[Finding]:
    sayings = {
        "missing": ("only the reference has", "the candidate lacks them, and loading it would"
                    " leave them random or at their defaults"),
        "unexpected": ("only the candidate has", "the reference has no such tensors, and loading"
                       " would ignore them or fail"),
        "reshaped": ("have another shape", "they cannot be one model"),
    }  # fmt: skip
    for status, (verb, meaning) in sayings.items():
        by_component: defaultdict[str, list[Pair]] = defaultdict(list)
        for pair in pairs:
            if pair.status == status and _kind(pair) is None:
                by_component[place(pair.name).component].append(pair)
        for component, group in by_component.items():
            shapes = ""
            if status == "reshaped" and (first := group[0]).a and first.b:
                shapes = f" ({first.a.shape} against {first.b.shape})"
            yield Finding(
                kind="weights",
                name=group[0].name if len(group) == 1 else component,
                detail=f"{component}: {counted(len(group), 'tensor')} {verb}{shapes}:"
                f" {listed(pair.name for pair in group)}; {meaning}",
                reference=sum(pair.a is not None for pair in group),
                candidate=sum(pair.b is not None for pair in group),
                component=record_component(group[0].name),
                block=single_block(pair.name for pair in group),
                remedy=f"Compare the names; {_CONVERT}",
            )


def _foreign(pairs: list[Pair], blocks: dict[str, int]) -> Iterable[Finding]:
    """Blocks and components whose values have nothing to do with the reference's."""
    groups: defaultdict[str, list[Pair]] = defaultdict(list)
    totals: defaultdict[str, int] = defaultdict(int)
    for pair in pairs:
        if pair.comparable:
            totals[_unit(pair)] += 1
            if _kind(pair) == "other":
                groups[_unit(pair)].append(pair)
    whole: defaultdict[str, list[str]] = defaultdict(list)
    for unit in groups:
        whole[_component_part(unit)].append(unit)
    for part, units in whole.items():
        everything = [unit for unit in totals if _component_part(unit) == part]
        if len(units) > 1 and len(units) >= 0.6 * len(everything):
            members = [pair for unit in units for pair in groups[unit]]
            yield _from_elsewhere(part, members, sum(totals[unit] for unit in everything), None)
            continue
        for unit in units:
            block = unit.partition(".")[2] or None
            yield _from_elsewhere(unit, groups[unit], totals[unit], block)


def _from_elsewhere(name: str, members: list[Pair], total: int, block: str | None) -> Finding:
    big = [pair for pair in members if len(pair.shape) > 1] or members
    worst = max(big, key=lambda pair: pair.difference.rel_l2 if pair.difference else 0.0)
    apart = f"rel. L2 {worst.difference.rel_l2:.2g}" if worst.difference else "not comparable"
    if len(members) == 1:
        what = f"{members[0].name} holds other values than the reference's ({apart})"
    elif len(members) >= total / 2 or len(members) > 3:
        what = (
            f"{name} comes from another checkpoint: {len(members)} of its {total} tensors are"
            f" unrelated to the reference's ({worst.name}: {apart})"
        )
    else:
        what = f"{listed(pair.name for pair in members)} hold other values ({apart})"
    return Finding(
        kind="weights",
        name=members[0].name if len(members) == 1 else name,
        detail=what,
        component=record_component(members[0].name),
        block=block,
        remedy=_OWN_PLACE,
    )


def _unit(pair: Pair) -> str:
    where = place(pair.name)
    if where.component == "vae" or not where.block:
        return ".".join(pair.name.split(".")[: 2 if where.component == "vae" else 1])
    return f"{where.component}.{where.block}"


def _component_part(unit: str) -> str:
    return unit if unit.startswith("vae.") else unit.partition(".")[0]


def _exchanged(pairs: list[Pair], blocks: dict[str, int]) -> Iterable[Finding]:
    """Tensors found under the names of others, within a block or between blocks."""
    within: defaultdict[tuple[str, str], list[Pair]] = defaultdict(list)
    between: defaultdict[tuple[str | None, str | None], list[Pair]] = defaultdict(list)
    for pair in pairs:
        if _kind(pair) != "moved" or not pair.relation or not pair.relation.source:
            continue
        here, there = place(pair.name), place(pair.relation.source)
        if here.block == there.block:
            within[module(here.generic), module(there.generic)].append(pair)
        else:
            between[here.block, there.block].append(pair)
    done: set[tuple[str, str]] = set()
    for (here, there), group in sorted(within.items(), key=lambda x: reading_order(x[0][0])):
        if (here, there) in done:
            continue
        mutual = (there, here) in within
        done |= {(here, there), (there, here)} if mutual else {(here, there)}
        members = [place(pair.name).block or "" for pair in group]
        where = f" {blocks_in_words(members, blocks.get(place(group[0].name).generic, 1))}"
        where = where if members[0] else ""
        verb = "are swapped" if mutual else "holds what the reference has as"
        text = f"{here} and {there} {verb}" if mutual else f"{here} {verb} {there}"
        yield Finding(
            kind="weights",
            name=here,
            detail=f"{text}{where}: {here.rpartition('.')[2]} holds what"
            f" {there.rpartition('.')[2]} holds in the reference",
            reference=here,
            candidate=there,
            component=record_component(here),
            block=single_block(pair.name for pair in group),
            remedy=f"Assign the chunks in the order query, key, value; {_CONVERT}",
        )
    for (to, source), group in between.items():
        yield Finding(
            kind="weights",
            name=to or group[0].name,
            detail=f"{to or group[0].name} holds the reference's {source or group[0].relation}"
            f" ({len(group)} tensors)",
            reference=to,
            candidate=source,
            component=record_component(group[0].name),
            block=to,
            remedy=_OWN_PLACE,
        )


_REARRANGED = (
    "modulation",
    "rows",
    "columns",
    "transposed",
    "flipped",
    "scaled",
    "zeros",
    "constant",
    "zero_sign",
    "unrounded",
)


def _rearranged(pairs: list[Pair], blocks: dict[str, int]) -> Iterable[Finding]:
    """Every other exact relation: one finding for each kind of module and each relation."""
    groups: defaultdict[tuple[str, str], list[Pair]] = defaultdict(list)
    for pair in pairs:
        if pair.relation and pair.relation.kind in _REARRANGED:
            groups[module(place(pair.name).generic), pair.relation.words].append(pair)
    merged: defaultdict[tuple[str, str], list[tuple[str, list[Pair]]]] = defaultdict(list)
    for (generic, words), group in groups.items():
        merged[place(group[0].name).component, words].append((generic, group))
    for (_, words), parts in merged.items():
        parts.sort(key=lambda part: reading_order(part[0]))
        everything = [pair for _, group in parts for pair in group]
        members = [block for pair in everything if (block := place(pair.name).block)]
        where = ""
        if members:
            counts = [blocks.get(place(pair.name).generic, 1) for pair in everything]
            where = f", {blocks_in_words(members, max(counts))}"
        yield Finding(
            kind="weights",
            name=parts[0][0]
            if not single_block(pair.name for pair in everything)
            else module(everything[0].name),
            detail=f"{listed(generic for generic, _ in parts)}: {words}{where}",
            component=record_component(everything[0].name),
            block=single_block(pair.name for pair in everything),
            remedy=_remedy(everything[0]),
        )


def _remedy(pair: Pair) -> str:
    kind = _kind(pair)
    if kind in ("zeros", "constant"):
        return "The tensor was not loaded or was reset; take it from the reference"
    if kind in ("zero_sign", "unrounded"):
        return "Compare how the two were saved: one of them went through other arithmetic"
    if kind == "scaled":
        return "Remove the factor, or carry it in the code that reads the tensor"
    if ".norm_out." in pair.name:
        return f"Harmless only if the code that reads it takes scale before shift; else {_CONVERT}"
    return f"Undo the permutation in the conversion; {_CONVERT}"


def _rounded(pairs: list[Pair]) -> Iterable[Finding]:
    return _by_component(
        pairs, "rounded",
        lambda pair: (pair.relation.source or "") if pair.relation else "",
        "{component}: {count} of {total} tensors are the reference ({dtypes_a}) rounded to {key},"
        " value for value; stored as {dtypes_b}. Precision was lost: rel. L2 up to {worst:.1e}",
        "Export again from the weights in their full precision; if this precision is intended, say"
        " so with --dtype",
    )  # fmt: skip


def other_dtypes(pairs: list[Pair]) -> Iterable[Finding]:
    """Tensors that hold the same values in another dtype: a difference only if one was asked for."""
    pairs = [pair for pair in pairs if not pair.told]
    return _by_component(
        pairs, "same_values", lambda pair: f"{pair.a and pair.a.dtype} {pair.b and pair.b.dtype}",
        "{component}: {count} of {total} tensors hold the same values in another dtype: {dtypes_a}"
        " in the reference, {dtypes_b} in the candidate; nothing was lost",
        "Load both in one dtype, set explicitly; if the candidate's is intended, say so with --dtype",
    )  # fmt: skip


def _by_component(
    pairs: list[Pair], kind: str, key: Callable[[Pair], str], sentence: str, remedy: str
) -> Iterable[Finding]:
    groups: defaultdict[tuple[str, str], list[Pair]] = defaultdict(list)
    for pair in pairs:
        if _kind(pair) == kind:
            groups[place(pair.name).component, key(pair)].append(pair)
    for (component, value), group in groups.items():
        total = sum(place(pair.name).component == component for pair in pairs)
        dtypes_a = sorted({pair.a.dtype for pair in group if pair.a})
        dtypes_b = sorted({pair.b.dtype for pair in group if pair.b})
        worst = max((pair.difference.rel_l2 for pair in group if pair.difference), default=0.0)
        yield Finding(
            kind="dtype",
            name=component,
            detail=sentence.format(
                component=component, count=len(group), total=total, key=value, worst=worst,
                dtypes_a=", ".join(dtypes_a), dtypes_b=", ".join(dtypes_b),
            ),
            reference=dtypes_a,
            candidate=[value] if kind == "rounded" else dtypes_b,
            component=record_component(group[0].name),
            block=single_block(pair.name for pair in group),
            remedy=remedy,
        )  # fmt: skip
