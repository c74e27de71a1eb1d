"""Two tensors of one shape compared value by value, a slice at a time.

Everything here is exact and needs memory for one slice beside the tensors themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from backends.checkpoints.tensors import raw_bytes

SAMPLE = 16384
"""Most values in a sample: every k-th of the flattened tensor, k as small as that allows. Quantiles
of it are within about 0.8 % of rank (two standard errors at the median)."""

_SLICE = 1 << 22


class Distance(NamedTuple):
    """How far one tensor is from another: exact, over all values, computed in float32.

    `rel_l2` is |b - a| / |a|, `max_abs` the largest |b - a|, `changed_share` the share of values
    that differ, `max_ulps` the largest distance in units of the last place of the coarser dtype at
    the larger of the two values.
    """

    rel_l2: float
    max_abs: float
    changed_share: float
    max_ulps: float
    cosine: float


def sample(tensor: Tensor) -> Tensor:
    """The strided sample of `tensor` as float32 (n,), n at most `SAMPLE`; the same indices for equal
    sizes, so that samples of two tensors can be compared value by value."""
    flat = tensor.reshape(-1)
    stride = max(1, -(-flat.numel() // SAMPLE))
    return flat[::stride].float()


def bits_equal(a: Tensor, b: Tensor) -> bool:
    """Whether dtype, shape and every bit agree: -0.0 is not 0.0, and a NaN equals its own bits."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    left, right = a.contiguous().reshape(-1), b.contiguous().reshape(-1)
    for kind in (torch.int64, torch.uint8):  # eight bytes at a time where sizes and offsets allow
        try:
            return torch.equal(left.view(kind), right.view(kind))
        except RuntimeError:
            continue
    return torch.equal(raw_bytes(a), raw_bytes(b))


def values_equal(a: Tensor, b: Tensor, via: torch.dtype | None = None) -> bool:
    """Whether `b` is `a`, cast to `via` (None: not cast) and then to the wider of the two dtypes."""
    for x, y in _slices(a, b):
        cast = x if via is None else x.to(via)
        wide = torch.promote_types(_plain(cast.dtype), _plain(y.dtype))
        if not bits_equal(cast.to(wide), y.to(wide)):
            return False
    return True


def numbers_equal(a: Tensor, b: Tensor) -> bool:
    """Whether the values are the same numbers: -0.0 is 0.0 here, and NaN is not itself."""
    return all(torch.equal(x.double(), y.double()) for x, y in _slices(a, b))


def scaled_by(a: Tensor, b: Tensor, ratio: float, tolerance: float) -> bool:
    """Whether |`b` - `ratio` `a`| <= `tolerance` |`ratio` `a`|, in L2 over all values."""
    gap = size = 0.0
    for x, y in _slices(a, b):
        wanted = x.double() * ratio
        gap += float((y.double() - wanted).square().sum())
        size += float(wanted.square().sum())
    return math.sqrt(gap) <= tolerance * math.sqrt(size)


def measure(a: Tensor, b: Tensor) -> Distance:
    """How far `b` is from `a`, of equal shape; non-finite values on either side make distances NaN."""
    gap = left = right = product = largest = ulps = 0.0
    changed = 0
    coarse = max(torch.finfo(_plain(a.dtype)).eps, torch.finfo(_plain(b.dtype)).eps)
    for x, y in _slices(a, b):
        p, q = x.float(), y.float()
        delta = (q - p).abs()
        gap += float(delta.square().sum(dtype=torch.float64))
        left += float(p.square().sum(dtype=torch.float64))
        right += float(q.square().sum(dtype=torch.float64))
        product += float((p * q).sum(dtype=torch.float64))
        changed += int((delta != 0).sum())
        largest = max(largest, float(delta.max()))
        _, exponent = torch.frexp(torch.maximum(p.abs(), q.abs()))
        unit = torch.ldexp(torch.full_like(p, coarse), exponent - 1).clamp_min(torch.finfo().tiny)
        ulps = max(ulps, float((delta / unit).max()))
    return Distance(
        rel_l2=math.sqrt(gap / left) if left else (0.0 if not gap else math.inf),
        max_abs=largest,
        changed_share=changed / max(1, a.numel()),
        max_ulps=ulps,
        cosine=product / math.sqrt(left * right) if left and right else 0.0,
    )


def _slices(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    left, right = a.reshape(-1), b.reshape(-1)
    for start in range(0, left.numel(), _SLICE):
        yield left[start : start + _SLICE], right[start : start + _SLICE]


def _plain(dtype: torch.dtype) -> torch.dtype:
    """torch promotes float8 kinds with nothing; float32 holds all of their values."""
    return torch.float32 if str(dtype).startswith("torch.float8") else dtype
