"""Tensors that changed a little: fine-tuned, a LoRA fused in, or fused and taken out again."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from harness.audit.compare import Pair
from harness.audit.places import blocks_in_words, listed, module, place, record_component
from harness.records import Finding
from harness.report.text import counted

_TARGETS = re.compile(r"\.(attn1\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2))\.weight$")
_ENERGY = 0.9
_MOST_RANK = 128
_FEW = 0.001
"""Share of changed values below which a tensor does not look trained."""
_ROUNDING = 0.02
"""Relative L2 below which a change of full rank in LoRA's targets is what rounding leaves behind."""


@dataclass(frozen=True)
class _Rank:
    """The least rank that holds `_ENERGY` of a difference, where it is far below full."""

    rank: int
    share: float


def drifted(pairs: list[Pair]) -> Iterable[Finding]:
    """One finding for each component that changed a little."""
    components: defaultdict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        components[place(pair.name).component].append(pair)
    for component, group in components.items():
        yield _finding(component, group)


def _finding(component: str, group: list[Pair]) -> Finding:
    measured = sorted((pair for pair in group if pair.difference), key=lambda p: -_rel(p))
    worst = measured[0] if measured else group[0]
    middle = _rel(measured[len(measured) // 2]) if measured else 0.0
    size = f"rel. L2 {middle:.1e} in the middle, at most {_rel(worst):.1e} ({worst.name})"
    parts = listed(sorted({module(place(pair.name).generic) for pair in group}))
    blocks = [block for pair in group if (block := place(pair.name).block)]
    where = f", {blocks_in_words(blocks, len(set(blocks)))}" if blocks else ""
    targets_only = component == "transformer" and all(_TARGETS.search(p.name) for p in group)
    low = _low_rank(measured) if targets_only else None
    if measured and all(_changed(pair) < _FEW for pair in measured):
        count = worst.values_a.count if worst.values_a else 0
        what = (
            f"{counted(len(group), 'tensor')} changed in a few values alone{where}: {worst.name} in"
            f" {max(1, round(_changed(worst) * count))} of {count}, where training changes most"
        )
        remedy = "Fetch or copy the file again; single values change by bit errors or by hand"
    elif low is not None:
        what = (
            f"a LoRA of rank about {low.rank} is fused into {parts}{where}:"
            f" {low.share:.0%} of the difference has that rank"
        )
        remedy = "Compare with the LoRA that was meant: `parity audit BASE FUSED --lora FILE`"
    elif targets_only and _rel(worst) < _ROUNDING:
        what = (
            f"{parts} differ{where} by rounding alone, without structure, and nothing else does:"
            " what fusing a LoRA and taking it out again leaves behind in this dtype"
        )
        remedy = "Load the base weights again instead of unfusing, or fuse in float32"
    elif _rel(worst) > 1:
        what = f"{counted(len(group), 'tensor')} of another size{where}: {parts}"
        remedy = "Too much for fine-tuning; look for a scale that was dropped, or applied twice"
    else:
        what = f"{counted(len(group), 'tensor')} changed a little{where}: {parts}"
        remedy = "Expected after fine-tuning; otherwise take the reference's weights"
    return Finding(
        kind="weights",
        name=component if len(group) > 1 else group[0].name,
        detail=f"{component}: {what}; {size}",
        component=record_component(group[0].name),
        block=blocks[0] if len(set(blocks)) == 1 and len(blocks) == len(group) else None,
        remedy=remedy,
    )


def _rel(pair: Pair) -> float:
    return pair.difference.rel_l2 if pair.difference else 0.0


def _changed(pair: Pair) -> float:
    return pair.difference.changed_share if pair.difference else 1.0


def _low_rank(measured: list[Pair]) -> _Rank | None:
    """The rank of the difference that changed most, if it is low."""
    matrices = [pair for pair in measured if len(pair.shape) == 2 and min(pair.shape) >= 16]
    if not matrices:
        return None
    pair = matrices[0]
    delta = pair.load_b().float() - pair.load_a().float()
    pair.release()
    most = min(_MOST_RANK, min(delta.shape) // 4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, values, _ = torch.svd_lowrank(delta, q=most, niter=2)
    energy = values.square().cumsum(0) / delta.square().sum()
    rank = int((energy < _ENERGY).sum()) + 1
    return _Rank(rank, float(energy[rank - 1])) if rank < most else None
