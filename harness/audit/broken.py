"""Findings about tensors that are broken by themselves: damaged blocks, and scales that were lost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from harness.audit.compare import Pair
from harness.audit.places import listed, place, record_component, single_block
from harness.records import Finding
from harness.report.text import counted


def damaged_findings(pairs: list[Pair]) -> Iterable[Finding]:
    """Tensors with a broken block, one finding for each component."""
    groups: defaultdict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        if pair.relation is not None and pair.relation.kind == "damaged":
            groups[place(pair.name).component].append(pair)
    for component, group in groups.items():
        first = group[0]
        others = f"; likewise {listed(pair.name for pair in group[1:])}" if group[1:] else ""
        yield Finding(
            kind="weights",
            name=first.name if not group[1:] else component,
            detail=f"{component}: {counted(len(group), 'tensor')} damaged in places, not changed by"
            f" training: {first.name}: {first.relation and first.relation.words}{others}",
            component=record_component(first.name),
            block=single_block(pair.name for pair in group),
            remedy="Fetch or copy the file again, and compare its checksum with the publisher's",
        )


def scale_findings(pairs: list[Pair]) -> Iterable[Finding]:
    """Eight-bit weights whose scales are wrong or were left out, one finding for each way."""
    groups: defaultdict[tuple[str, str], list[Pair]] = defaultdict(list)
    for pair in pairs:
        if pair.relation is not None and pair.relation.kind == "scale":
            groups[place(pair.name).component, pair.relation.words].append(pair)
    for (component, words), group in groups.items():
        ratios = sorted(p.relation.ratio for p in group if p.relation and p.relation.ratio)
        ends = f"{ratios[0]:.4g}" if ratios else ""
        ends += f" to {ratios[-1]:.4g}" if ratios and ends != f"{ratios[-1]:.4g}" else ""
        yield Finding(
            kind="weights",
            name=component if group[1:] else group[0].name,
            detail=f"{component}: {counted(len(group), 'tensor')}: {words}"
            f"{f'; the values are {ends} times as large' if ends else ''}"
            f" ({listed(pair.name for pair in group)})",
            component=record_component(group[0].name),
            block=single_block(pair.name for pair in group),
            remedy="Apply the scale that the export wrote beside each weight, or export again with it",
        )
