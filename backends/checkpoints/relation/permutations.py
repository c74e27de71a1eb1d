"""Which permutation turned one list of rows into another, and how a person would call it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Order = NDArray[np.int64]

_KEY_COLUMNS = 64
_MOST_AXES = 4
_MOST_ROWS_FOR_AXES = 4096


@dataclass(frozen=True)
class Chunks:
    """`order[i]` is the chunk of the reference that chunk i of the candidate holds."""

    order: tuple[int, ...]

    def __str__(self) -> str:
        count = len(self.order)
        if self.order == (1, 0):
            return "its two halves are swapped"
        return f"its {count} chunks of rows stand in the order {', '.join(map(str, self.order))}"


def chunk_order(a: Sequence[Tensor], b: Sequence[Tensor]) -> tuple[int, ...] | None:
    """The permutation with which every chunk of `b` equals a chunk of `a`, if there is one.

    A chunk that equals its own counterpart stays; equal chunks are dealt out in order.
    """
    if a[0].dtype != b[0].dtype:
        a = [chunk.to(b[0].dtype) for chunk in a]
    if b[0].element_size() == 1:  # float8, which torch compares by its bytes alone
        a, b = ([chunk.view(torch.int8) for chunk in side] for side in (a, b))
    order: list[int | None] = [
        i if torch.equal(x, y) else None for i, (x, y) in enumerate(zip(a, b, strict=True))
    ]
    free = [i for i in range(len(a)) if i not in order]
    for place, chunk in enumerate(b):
        if order[place] is None:
            match = next((i for i in free if torch.equal(a[i], chunk)), None)
            if match is None:
                return None
            order[place] = match
            free.remove(match)
    return tuple(i for i in order if i is not None)


def row_order(a: Tensor, b: Tensor) -> Order | None:
    """The permutation p with b[i] == a[p[i]] for all rows, to the bit, if there is one.

    Rows are matched by a few of their values and then compared whole. Vectors are refused: their
    values repeat too often to say which is which.
    """
    if a.shape != b.shape or a.ndim < 2 or a.shape[0] < 2:
        return None
    rows = a.shape[0]
    left, right = a.reshape(rows, -1), b.reshape(rows, -1)
    step = max(1, left.shape[1] // _KEY_COLUMNS)
    places: dict[bytes, list[int]] = {}
    for index, key in enumerate(_keys(left[:, ::step])):
        places.setdefault(key, []).append(index)
    order: list[int] = []
    for index, key in enumerate(_keys(right[:, ::step])):
        found = places.get(key)
        if not found:
            return None
        order.append(found.pop(found.index(index)) if index in found else found.pop(0))
    result = np.asarray(order, dtype=np.int64)
    for start in range(0, rows, 1024):
        chosen = torch.from_numpy(result[start : start + 1024])
        if not torch.equal(left[chosen], right[start : start + 1024]):
            return None
    return result


def _keys(rows: Tensor) -> list[bytes]:
    # A dimension of size one may have any stride, which `contiguous` leaves and `view` refuses.
    values = rows.clone(memory_format=torch.contiguous_format)
    raw = values.view(torch.uint8).reshape(values.shape[0], -1).numpy()
    return [row.tobytes() for row in raw]


def in_words(order: Order, what: str = "rows") -> str:
    """The simplest name of a permutation: chunks, reversed, axes exchanged, or shuffled."""
    count = len(order)
    for chunks in (2, 3, 4, 6, 8, 12):
        if count % chunks == 0 and (named := _as_chunks(order, chunks)):
            return str(named).replace("rows", what)
    if np.array_equal(order, np.arange(count)[::-1]):
        return f"its {what} are reversed"
    if count <= _MOST_ROWS_FOR_AXES and (axes := _as_axes(order)):
        shape, permuted = axes
        letters = "abcd"[: len(shape)]
        sizes = " x ".join(map(str, shape))
        to = "".join(letters[i] for i in permuted)
        return f"its {what}, seen as ({letters}) = {sizes}, are laid out as ({to})"
    moved = int((order != np.arange(count)).sum())
    return f"{moved} of its {count} {what} are shuffled"


def _as_chunks(order: Order, count: int) -> Chunks | None:
    size = len(order) // count
    starts = order.reshape(count, size)
    if not np.array_equal(starts - starts[:, :1], np.tile(np.arange(size), (count, 1))):
        return None
    return Chunks(tuple(int(first) // size for first in starts[:, 0]))


def _as_axes(order: Order) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Factor sizes and axis permutation with order == arange.reshape(sizes).transpose(axes)."""
    count = len(order)
    for axes_count in range(2, _MOST_AXES + 1):
        for shape in _factors(count, axes_count):
            strides = [int(np.prod(shape[i + 1 :])) for i in range(axes_count)]
            for axes in permutations(range(axes_count)):
                # The second entry tells most candidates apart without building the whole order.
                if order[1] != strides[axes[-1]] or axes == tuple(range(axes_count)):
                    continue
                if np.array_equal(
                    np.arange(count).reshape(shape).transpose(axes).reshape(-1), order
                ):
                    return shape, axes
    return None


def _factors(count: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Ordered factorisations of `count` into `parts` factors of at least 2."""
    if parts == 1:
        if count > 1:
            yield (count,)
        return
    for first in range(2, count // 2 + 1):
        if count % first == 0:
            for rest in _factors(count // first, parts - 1):
                yield (first, *rest)
