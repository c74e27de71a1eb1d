"""The streaming pass over two checkpoints: every tensor once, then a closer look at what differs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from backends.checkpoints import Source, Stored
from backends.checkpoints.relation import (
    Relation,
    bits_equal,
    damage,
    eight_bits,
    measure,
    relate,
    sample,
)
from harness.audit.places import place
from harness.audit.records import Difference, Status, TensorReport, Values
from harness.audit.values import describe

Progress = Callable[[int, int], None]
"""Is told the bytes read so far, and in all."""

_FINGERPRINT = 1024

_TIED = {"text_encoder.encoder.embed_tokens.weight": "text_encoder.shared.weight"}
"""T5 stores its embedding under one or both of these names."""


@dataclass
class Pair:
    """One canonical name: what each side stores under it and what was found out.

    `damage` says in words what looks broken in a candidate's tensor that no exact relation explains.
    `told` pairs have a finding of their own already, or are as they were meant to be.
    """

    name: str
    a: Stored | None
    b: Stored | None
    status: Status
    relation: Relation | None = None
    difference: Difference | None = None
    values_a: Values | None = None
    values_b: Values | None = None
    damage: str | None = None
    told: bool = False

    @property
    def comparable(self) -> bool:
        """Whether both sides hold this tensor in one shape."""
        return self.a is not None and self.b is not None and self.a.shape == self.b.shape

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape on the side that has it."""
        side = self.b if self.a is None else self.a
        return () if side is None else side.shape

    def load_a(self) -> Tensor:
        """The reference's tensor. Raises `KeyError` where it has none."""
        return _loaded(self.name, self.a)

    def load_b(self) -> Tensor:
        """The candidate's tensor. Raises `KeyError` where it has none."""
        return _loaded(self.name, self.b)

    def release(self) -> None:
        """Give back the pages of both sides."""
        for side in (self.a, self.b):
            if side is not None:
                side.release()

    def report(self) -> TensorReport:
        """The record of this pair."""
        a, b = self.a, self.b
        return TensorReport(
            name=self.name,
            status=self.status,
            stored_a=a and a.stored_as,
            stored_b=b and b.stored_as,
            dtype_a=a and a.dtype,
            dtype_b=b and b.dtype,
            shape_a=None if a is None else list(a.shape),
            shape_b=None if b is None else list(b.shape),
            relation=self.relation and self.relation.words,
            difference=self.difference,
            values_a=self.values_a,
            values_b=self.values_b,
        )


@dataclass
class Comparison:
    """All pairs, and short samples of every tensor with which a moved one is found again."""

    pairs: list[Pair]
    prints_a: dict[str, Tensor] = field(default_factory=dict)
    prints_b: dict[str, Tensor] = field(default_factory=dict)


def compare(a: Source, b: Source, components: tuple[str, ...], progress: Progress) -> Comparison:
    """Compare every tensor of `components` of `a` and `b`, telling `progress`. Holds two tensors of
    each side at a time: those that are compared, and the next ones, which a thread reads meanwhile."""
    names = {name: None for name in (*a.tensors, *b.tensors) if place(name).component in components}
    found = Comparison([])
    read, total = 0, sum(size(s) for side in (a, b) for n, s in side.tensors.items() if n in names)
    sides = [
        (name, a.tensors.get(name), b.tensors.get(name))
        for name in names
        if (name in a.tensors and name in b.tensors) or not _present_as_tied(name, a, b)
    ]
    with ThreadPoolExecutor(1) as ahead:
        for at, (name, left, right) in enumerate(sides):
            coming = ahead.submit(_prefetch, *sides[at + 1][1:]) if at + 1 < len(sides) else None
            found.pairs.append(_pair(name, left, right, found))
            read += sum(size(stored) for stored in (left, right) if stored is not None)
            progress(read, total)
            if coming is not None:
                coming.result()
    return found


def _prefetch(*sides: Stored | None) -> None:
    for stored in sides:
        if stored is not None:
            stored.prefetch()


def size(stored: Stored) -> int:
    """Bytes of a stored tensor."""
    count = 1
    for extent in stored.shape:
        count *= extent
    return count * torch.empty(0, dtype=getattr(torch, stored.dtype)).element_size()


def _loaded(name: str, side: Stored | None) -> Tensor:
    if side is None:
        raise KeyError(name)
    return side.load()


def _present_as_tied(name: str, a: Source, b: Source) -> bool:
    """Whether `name` is only absent where the tensor that it is tied to stands for it."""
    original = _TIED.get(name)
    return original is not None and original in a.tensors and original in b.tensors


def _pair(name: str, left: Stored | None, right: Stored | None, found: Comparison) -> Pair:
    if left is None or right is None:
        only = left or right
        pair = Pair(name, left, right, "missing" if right is None else "unexpected")
        if only is not None:
            values = _described(name, only, found.prints_a if right is None else found.prints_b)
            pair.values_a, pair.values_b = (values, None) if right is None else (None, values)
        return pair
    if left.shape != right.shape:
        pair = Pair(name, left, right, "reshaped")
        pair.values_a = _described(name, left, found.prints_a)
        pair.values_b = _described(name, right, found.prints_b)
        return pair
    x, y = left.load(), right.load()
    equal = bits_equal(x, y)
    pair = Pair(name, left, right, "identical" if equal else "differs")
    pair.values_a = _values(name, x, found.prints_a)
    if equal:
        found.prints_b[name] = found.prints_a[name]
    else:
        pair.values_b = _values(name, y, found.prints_b)
        pair.relation = eight_bits(x, y, left, right) or relate(x, y)
        if pair.relation.kind in ("drift", "other"):
            pair.damage = damage(x, y)
        if pair.relation.kind in ("same_values", "rounded"):
            pair.status = "same_values" if pair.relation.kind == "same_values" else "rounded"
        if pair.relation.kind != "same_values" and x.is_floating_point():
            pair.difference = Difference(**measure(x, y)._asdict())
    del x, y
    left.release()
    right.release()
    return pair


def _described(name: str, stored: Stored, prints: dict[str, Tensor]) -> Values:
    tensor = stored.load()
    values = _values(name, tensor, prints)
    del tensor
    stored.release()
    return values


def _values(name: str, tensor: Tensor, prints: dict[str, Tensor]) -> Values:
    drawn = sample(tensor)
    prints[name] = drawn[:: max(1, -(-drawn.numel() // _FINGERPRINT))].clone()
    return describe(tensor, drawn)
