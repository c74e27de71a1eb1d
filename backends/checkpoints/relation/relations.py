"""How one tensor came from another of the same name: the simplest explanation that is exact.

Every relation but `drift` and `other` is proven over all values before it is said; a sample only
chooses what to try. `scale` is of eight-bit weights (`eight_bits`), `damaged` of `damage`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from backends.checkpoints.relation.numbers import (
    bits_equal,
    numbers_equal,
    sample,
    scaled_by,
    values_equal,
)
from backends.checkpoints.relation.permutations import Order, chunk_order, in_words, row_order

Kind = Literal[
    "same_values", "zero_sign", "rounded", "unrounded", "zeros", "constant", "scaled", "transposed",
    "flipped", "rows", "columns", "modulation", "moved", "scale", "damaged", "drift", "other",
]  # fmt: skip

NARROW = ("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")
"""Dtypes through which a tensor may have been rounded, in the order in which they are tried."""

CLOSE = 0.98
"""Cosine from which two tensors are one that changed, rather than two."""

_MOST = 0.5
"""Share of changed values above which `a` may be a rounding of `b`: of values that a narrower dtype
cannot hold nearly all change, and a few that changed in their last bits are an edit."""
_RATIO_TOLERANCE = 2e-4
_CHUNKS = (2, 3, 4, 6)


@dataclass(frozen=True)
class Relation:
    """`words` complete the sentence "the candidate's tensor: ...". `order` is a row permutation;
    `source` the reference tensor that was found here instead; `ratio` a common factor, of a scale in
    the middle of its parts."""

    kind: Kind
    words: str
    order: Order | None = None
    source: str | None = None
    ratio: float | None = None


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of two samples, 0 where one of them is zero or not finite."""
    size = float(a.norm() * b.norm())
    value = float(torch.dot(a, b)) / size if size else 0.0
    return value if value == value else 0.0


def relate(a: Tensor, b: Tensor) -> Relation:
    """The relation of `b` to `a`, of equal shape and not equal to the bit."""
    left, right = sample(a), sample(b)
    return (
        _precision(a, b, left, right)
        or _flat(b, right)
        or _scale(a, b, left, right)
        or _arrangement(a, b)
        or _distance(left, right)
    )


def _precision(a: Tensor, b: Tensor, left: Tensor, right: Tensor) -> Relation | None:
    if a.dtype != b.dtype and values_equal(a, b):
        return Relation("same_values", f"the same values, as {_name(b)} instead of {_name(a)}")
    if torch.equal(left, right) and numbers_equal(a, b):
        return Relation("zero_sign", "the sign of zeros only; equal in value")
    if (name := _rounding(a, b, left, right, NARROW)) is not None:
        return Relation("rounded", f"the reference rounded to {name}", source=name)
    if float((left != right).float().mean()) > _MOST and (
        name := _rounding(b, a, right, left, NARROW[:2])
    ):
        words = f"more precise values, of which the reference's are the {name} rounding"
        return Relation("unrounded", words, source=name)
    return None


def _rounding(
    a: Tensor, b: Tensor, left: Tensor, right: Tensor, names: tuple[str, ...]
) -> str | None:
    """The dtype, of `names` or that of `b`, through which `a` was rounded to become `b`; `left` and
    `right` are their samples."""
    for name in dict.fromkeys((*names, _name(b))):
        kind: torch.dtype = getattr(torch, name)
        if kind == a.dtype or not bits_equal(left.to(kind).to(b.dtype).float(), right):
            continue
        if values_equal(a, b, kind):
            return name
    return None


def _flat(b: Tensor, right: Tensor) -> Relation | None:
    if not right.numel() or not bool((right == right[0]).all()):
        return None
    value = float(right[0])
    if not bool((b == b.reshape(-1)[0]).all()):
        return None
    return Relation("zeros", "all zeros") if value == 0 else Relation("constant", f"all {value:g}")


def _scale(a: Tensor, b: Tensor, left: Tensor, right: Tensor) -> Relation | None:
    size = float(left.square().sum())
    if not size or abs(cosine(left, right)) < CLOSE:
        return None
    ratio = float(torch.dot(left, right)) / size
    # What rounding alone does to a product, in L2; exact factors such as -1 and 2 stay within it.
    tolerance = 0.6 * max(_eps(a), _eps(b)) + 1e-6
    if abs(ratio - 1) <= max(_RATIO_TOLERANCE, tolerance) or not scaled_by(a, b, ratio, tolerance):
        return None
    if abs(ratio + 1) < _RATIO_TOLERANCE:
        return Relation("scaled", "the reference with its sign flipped", ratio=-1.0)
    return Relation("scaled", f"the reference times {ratio:.6g}", ratio=ratio)


def _arrangement(a: Tensor, b: Tensor) -> Relation | None:
    a = a if a.dtype == b.dtype else a.to(b.dtype)
    if b.element_size() == 1:  # torch moves no float8 about; its bytes it does
        a, b = a.view(torch.int8), b.view(torch.int8)
    if a.ndim == 2 and a.shape[0] == a.shape[1] and bits_equal(a.t(), b):
        return Relation("transposed", "the reference transposed")
    for axis in range(a.ndim):
        if a.shape[axis] > 1 and bits_equal(a.flip(axis), b):
            return Relation("flipped", f"the reference reversed along axis {axis}")
    if (order := row_order(a, b)) is not None:
        return Relation("rows", in_words(order), order=order)
    if a.ndim >= 2:
        columns = row_order(a.flatten(1).t(), b.flatten(1).t())
        if columns is not None:
            return Relation("columns", in_words(columns, "columns"))
    if a.ndim == 1:
        for count in _CHUNKS:
            if a.shape[0] % count == 0 and a.shape[0] > count:
                chunks = chunk_order(a.chunk(count), b.chunk(count))
                if chunks is not None:
                    size = a.shape[0] // count
                    order = torch.arange(a.shape[0]).view(count, size)[list(chunks)].view(-1)
                    return Relation("rows", in_words(order.numpy()), order=order.numpy())
    return None


def _distance(left: Tensor, right: Tensor) -> Relation:
    likeness = cosine(left, right)
    if likeness >= CLOSE:
        return Relation("drift", "changed a little")
    return Relation("other", f"other values (cosine {likeness:.2f})")


def _eps(tensor: Tensor) -> float:
    return torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
