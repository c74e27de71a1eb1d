"""Tensors that hold what belongs to other tensors: projections swapped, chunks dealt out wrongly.

Looked for only among tensors that no relation of their own explains.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import torch

from backends.checkpoints.relation import (
    Relation,
    bits_equal,
    chunk_order,
    in_words,
    row_order,
    values_equal,
)
from harness.audit.compare import Comparison, Pair

_NORMS = ("norm1.linear", "norm2.linear")
_QKV = ("attn1.to_q", "attn1.to_k", "attn1.to_v")
_BLOCK = re.compile(r"(?P<block>.*transformer_blocks\.\d+)\.(?P<part>.+)\.(?P<p>weight|bias)")
_ALIKE = 0.999
_SMALL = 16

_CHUNKS = tuple(
    f"{stream} {part}"
    for _ in range(2)
    for stream in ("video", "text")
    for part in ("shift", "scale", "gate")
)
_SAT_ORDER = (0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11)
_HALVES = (3, 4, 5, 0, 1, 2)


def explain(found: Comparison) -> None:
    """Give pairs a better relation where tensors beside them tell what happened."""
    by_name = {pair.name: pair for pair in found.pairs}
    _modulations(by_name)
    _moved(found, by_name)
    _projections(by_name)
    _like_the_weight(by_name)
    for pair in found.pairs:
        if pair.damage and pair.relation and pair.relation.kind in ("drift", "other"):
            pair.relation = Relation("damaged", pair.damage)


def _open(pair: Pair | None) -> bool:
    """Whether this pair differs and only its rows, or nothing, is known of how."""
    return pair is not None and pair.relation is not None and pair.relation.kind in (
        "other", "drift", "rows"
    )  # fmt: skip


def _groups(by_name: dict[str, Pair], parts: Sequence[str]) -> list[list[Pair]]:
    """The pairs of `parts` of one block, weight or bias, where all exist and one is unexplained."""
    blocks: defaultdict[tuple[str, str], dict[str, Pair]] = defaultdict(dict)
    for name, pair in by_name.items():
        match = _BLOCK.fullmatch(name)
        if match and match["part"] in parts and pair.comparable:
            blocks[match["block"], match["p"]][match["part"]] = pair
    return [
        [group[part] for part in parts]
        for group in blocks.values()
        if len(group) == len(parts) and any(_open(pair) for pair in group.values())
    ]


def _modulations(by_name: dict[str, Pair]) -> None:
    for group in _groups(by_name, _NORMS):
        left = [chunk for pair in group for chunk in pair.load_a().chunk(6)]
        right = [chunk for pair in group for chunk in pair.load_b().chunk(6)]
        order = chunk_order(left, right)
        if order is not None and order != tuple(range(12)):
            for index, pair in enumerate(group):
                held = order[index * 6 : index * 6 + 6]
                if held != tuple(range(index * 6, index * 6 + 6)):
                    pair.relation = Relation("modulation", _modulation(index, held, order))
        _release(group)


def _modulation(index: int, held: tuple[int, ...], order: tuple[int, ...]) -> str:
    if held == tuple(index * 6 + i for i in _HALVES):
        return "the halves for video and text are swapped"
    if order == _SAT_ORDER:
        return (
            "SAT's 12 modulation chunks were cut in the middle, not dealt out: the first six are"
            " video, the last six text, while Diffusers keeps attention and MLP apart"
        )
    where = [f"{_CHUNKS[i]} of norm{i // 6 + 1}" for i in held]
    return f"its six modulation chunks hold the reference's {', '.join(where)}"


def _moved(found: Comparison, by_name: dict[str, Pair]) -> None:
    """Tensors whose content the reference holds under another name."""
    shelves: defaultdict[tuple[int, ...], list[str]] = defaultdict(list)
    for pair in found.pairs:
        if pair.a is not None and pair.values_a is not None and pair.values_a.std > 0:
            shelves[pair.a.shape].append(pair.name)
    for pair in found.pairs:
        if pair.b is None or pair.status not in ("differs", "unexpected"):
            continue
        unexplained = pair.relation is None or pair.relation.kind == "other"
        names = shelves[pair.b.shape]
        if not unexplained or not names or found.prints_b[pair.name].numel() < _SMALL:
            continue
        table = torch.stack([found.prints_a[name] for name in names])
        wanted = found.prints_b[pair.name]
        sizes = table.norm(dim=1) * wanted.norm()
        likeness = (table @ wanted) / sizes.clamp_min(torch.finfo().tiny)
        best = int(likeness.nan_to_num(-1).argmax())
        if float(likeness[best]) >= _ALIKE and names[best] != pair.name:
            _confirm(pair, by_name[names[best]])


def _confirm(pair: Pair, original: Pair) -> None:
    x, y = original.load_a(), pair.load_b()
    same = bits_equal(x, y) or values_equal(x, y) or values_equal(x, y, y.dtype)
    how = "" if same else ", changed a little"
    pair.relation = Relation(
        "moved", f"what {original.name} holds in the reference{how}", source=original.name
    )
    original.release()
    pair.release()


def _projections(by_name: dict[str, Pair]) -> None:
    """Query, key and value cut out of one matrix in another order of rows (as by heads)."""
    for group in _groups(by_name, _QKV):
        if not all(_open(pair) for pair in group) or len({p.shape for p in group}) != 1:
            continue
        x, y = (torch.cat([load() for load in loads]) for loads in (
            [pair.load_a for pair in group], [pair.load_b for pair in group]
        ))  # fmt: skip
        order = row_order(x if x.dtype == y.dtype else x.to(y.dtype), y)
        if order is not None:
            words = f"query, key and value together: {in_words(order)}"
            for pair in group:
                pair.relation = Relation("rows", words)
        _release(group)


def _like_the_weight(by_name: dict[str, Pair]) -> None:
    """A bias is too short to tell its order alone; try the one that its weight's rows have."""
    for name, pair in by_name.items():
        if not name.endswith(".bias") or not _open(pair):
            continue
        weight = by_name.get(name.removesuffix("bias") + "weight")
        order = weight.relation.order if weight and weight.relation else None
        if weight is None or order is None or len(order) != pair.shape[0]:
            continue
        x, y = pair.load_a(), pair.load_b()
        if torch.equal(x.to(y.dtype)[torch.from_numpy(order)], y):
            pair.relation = weight.relation
        pair.release()


def _release(group: Sequence[Pair]) -> None:
    for pair in group:
        pair.release()
