"""Weights stored in eight bits, with or without the scales that belong to them.

A right export is the reference rounded to the eight-bit type's steps, each step times the scale. A
scale that was dropped or is wrong leaves the same pattern, times a factor; so the factor is looked for,
for the whole tensor and for each row, and said only where the steps then explain every value.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from backends.checkpoints.opened.source import Stored
from backends.checkpoints.relation.numbers import sample, values_equal
from backends.checkpoints.relation.relations import Relation
from backends.checkpoints.scales import SCALE_BLOCK

_ROWS = 1 << 22
"""Values that are looked at together."""
_SLACK = 2.0**-8
"""Relative error of a division that was carried out in bfloat16 before the rounding."""
_SAME = 1e-3
_ULPS = 2.0**-20
_ONE_WAY, _MOVED = 0.005, 0.1
"""Shares of values beside the nearest step: more one way than the other, and in all."""


def eight_bits(a: Tensor, b: Tensor, left: Stored, right: Stored) -> Relation | None:
    """How `b`, loaded from `right`, came from `a`, loaded from `left`, where either is in eight bits.

    Both have their scales applied. None where neither is, or eight bits explain nothing.
    """
    if left.raw is not None:
        return _from_scaled(a, b, left, right)
    if _narrow(left.dtype) or not a.is_floating_point():
        return None
    raw = (right.raw or right.load)() if _narrow(right.dtype) else _widened(b)
    if raw is None:
        return None
    named = str(raw.dtype).removeprefix("torch.")
    if right.scale is not None and _reproduced(a, b, raw) and _explained(a, b, raw, 1.0):
        words = f"the reference rounded to {right.dtype}, its scale {right.scale} applied"
        return Relation("rounded", words, source=right.dtype)
    for factor in (_overall(a, b), _by_row(a, b), _by_block(a, b)):
        if factor is None or not _explained(a, b, raw, factor):
            continue
        times = float(factor.median()) if isinstance(factor, Tensor) else factor
        if right.scale is None and abs(times - 1) < _SAME:
            return None
        wrong = "with a wrong scale" if right.scale else "with the scale that belongs to it dropped"
        widened = "" if _narrow(right.dtype) else f" and widened to {right.dtype}"
        words = f"the reference rounded to {named}{widened}, {wrong}"
        return Relation("scale", words, ratio=1 / times)
    return None


def _widened(b: Tensor) -> Tensor | None:
    """`b` in the eight-bit type that it was stored in once: all of its values are steps of that type."""
    taken = sample(b)
    for name in ("float8_e4m3fn", "float8_e5m2"):
        kind: torch.dtype = getattr(torch, name)
        if torch.equal(taken.to(kind).float(), taken) and values_equal(b, b, kind):
            return b.to(kind)
    return None


def _reproduced(a: Tensor, b: Tensor, raw: Tensor) -> bool:
    """Whether rounding `a` by the scale of `b` gives the stored values.

    A division in bfloat16 moves some values to the neighbouring step, up as often as down. A scale that
    is wrong moves them one way: one in a hundred, where it is wrong by one in a thousand.
    """
    stored = raw.float()
    told = stored != 0
    if not bool(told.any()):
        return True
    held = stored[told].abs()
    exact = (a.float()[told] * stored[told] / b[told]).abs()
    up = float((held > _rounded(exact * (1 + _ULPS), raw.dtype)).float().mean())
    down = float((held < _rounded(exact * (1 - _ULPS), raw.dtype)).float().mean())
    return abs(up - down) <= _ONE_WAY and up + down <= _MOVED


def _rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype == torch.int8:
        return values.round().clamp(max=127)
    return values.clamp(max=torch.finfo(dtype).max).to(dtype).float()


def _narrow(dtype: str) -> bool:
    return dtype.startswith("float8") or dtype == "int8"


def _from_scaled(a: Tensor, b: Tensor, left: Stored, right: Stored) -> Relation | None:
    """The reference is scaled: the candidate may hold its stored values, and another scale or none."""
    assert left.raw is not None
    stored = left.raw()
    raw = right.raw() if right.raw is not None else b
    if not values_equal(stored, raw):
        return None
    ratio = _overall(a, b)
    what = (
        "without their scale: it was ignored or dropped"
        if right.raw is None
        else "with another scale"
    )
    words = f"the reference's stored {left.dtype} values {what}"
    return Relation("scale", words, ratio=1 / ratio if ratio else None)


def _overall(a: Tensor, b: Tensor) -> float | None:
    """The factor that takes `b` nearest to `a`."""
    x, y = a.float(), b.float()
    size = float(y.square().sum())
    ratio = float((x * y).sum()) / size if size else 0.0
    return ratio if ratio > 0 else None


def _by_row(a: Tensor, b: Tensor) -> Tensor | None:
    if a.ndim < 2:
        return None
    x, y = a.float().flatten(1), b.float().flatten(1)
    ratios = (x * y).sum(1) / y.square().sum(1).clamp_min(torch.finfo().tiny)
    return ratios[:, None] if bool((ratios > 0).all()) else None


def _by_block(a: Tensor, b: Tensor) -> Tensor | None:
    if a.ndim != 2:
        return None
    x, y = a.float(), b.float()
    gained, size = (
        functional.avg_pool2d(part[None, None], SCALE_BLOCK, ceil_mode=True)[0, 0]
        for part in (x * y, y.square())
    )
    ratios = gained / size.clamp_min(torch.finfo().tiny)
    wide = ratios.repeat_interleave(SCALE_BLOCK, 0).repeat_interleave(SCALE_BLOCK, 1)
    return wide[: a.shape[0], : a.shape[1]] if bool((ratios > 0).all()) else None


def _explained(a: Tensor, b: Tensor, raw: Tensor, factor: float | Tensor) -> bool:
    """Whether `a` lies within half a step of the eight-bit type of `b` times `factor`, everywhere."""
    x, y, r = (t.reshape(t.shape[0] if t.ndim else 1, -1) for t in (a, b, raw))
    rows = max(1, _ROWS // max(1, x.shape[1]))
    for start in range(0, x.shape[0], rows):
        part = slice(start, start + rows)
        by = factor[part] if isinstance(factor, Tensor) else factor
        if not _within(x[part].float(), y[part].float() * by, r[part]):
            return False
    return True


def _within(x: Tensor, y: Tensor, raw: Tensor) -> bool:
    stored = raw.float()
    unit = torch.where(stored != 0, y / stored, 0.0)  # the scale, where the value tells it
    unit = torch.where(stored != 0, unit, unit.amax(1, keepdim=True))
    bound = (0.5 * _step(stored, raw.dtype) * unit).abs() + 2 * _SLACK * x.abs()
    return bool(((x - y).abs() <= bound + torch.finfo().tiny).all())


def _step(stored: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance of neighbouring values of `dtype` around each value."""
    if dtype == torch.int8:
        return torch.ones_like(stored)
    kind = torch.finfo(dtype)
    _, exponent = torch.frexp(stored.abs().clamp_min(kind.smallest_normal))
    return torch.ldexp(torch.full_like(stored, kind.eps), exponent - 1)
