"""Damage inside a tensor: what a broken download or disk leaves, and no training does.

    a run of one value       a block of zeros (or of any byte) where the other side's values vary
    a repeated block         what stands elsewhere in the tensor once more, and not on the other side
    an overwritten region    a few stretches changed throughout, everything around them equal to the bit

Disks, file systems and transfers lose 512 bytes or a multiple of it. A run of 512 bytes covers one whole
piece of 256, wherever the tensor begins in its file, so such pieces are looked at.
"""

from __future__ import annotations

import torch
from torch import Tensor

_PIECE = 256
"""Bytes."""
_LEAST = 512
_REGION = 0.25
"""Share of pieces up to which changes are a region, and not the whole tensor: fine-tuning, in the
narrowest dtype and with the smallest rate, still touches most pieces of 64 or 128 values."""
_DENSE = 0.5
"""Share of changed values inside a region: overwritten bytes change nearly all, an edit few."""
_MOST = 1 << 14
"""Pieces that are hashed at a time."""

_INTEGER = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def damage(a: Tensor, b: Tensor) -> str | None:
    """How `b`, of equal shape, is damaged where `a` is not, in words; None where nothing says so."""
    size = _PIECE // b.element_size()
    if b.numel() < 2 * size:
        return None
    left, right = _pieces(a, size), _pieces(b, size)
    return (
        _runs(left, right, b.element_size(), _flat(b))
        or _repeats(left, right, b.element_size())
        or _region(left, right, a.dtype == b.dtype, b.element_size())
    )


def _flat(tensor: Tensor) -> Tensor:
    flat = tensor.contiguous().reshape(-1)
    return flat.view(_INTEGER[flat.element_size()])


def _pieces(tensor: Tensor, size: int) -> Tensor:
    flat = _flat(tensor)
    return flat[: flat.numel() // size * size].view(-1, size)


def _runs(left: Tensor, right: Tensor, width: int, flat: Tensor) -> str | None:
    found = (_constant(right) & ~_constant(left)).nonzero().flatten()
    if not found.numel():
        return None
    first, size = int(found[0]), right.shape[1]
    value = flat[first * size]
    start, end = first * size, (first + 1) * size
    while start > 0 and flat[start - 1] == value:
        start -= 1
    while end < flat.numel() and flat[end] == value:
        end += 1
    if (end - start) * width < _LEAST:
        return None
    total = int(found.numel()) * _PIECE
    what = "zeros" if int(value) == 0 else f"one value (0x{int(value) & (1 << 8 * width) - 1:x})"
    more = f"; at least {total} bytes in all" if total > (end - start) * width else ""
    return (
        f"{(end - start) * width} bytes of {what} from value {start} of {flat.numel()} on, where the"
        f" reference's values vary{more}"
    )


def _repeats(left: Tensor, right: Tensor, width: int) -> str | None:
    changed = _changed(left, right)
    if not bool(changed.any()):
        return None
    twice = _doubled(right) & ~_constant(right) & changed
    if not bool(twice.any()):
        return None
    twice &= ~_doubled(left)
    found = twice.nonzero().flatten()
    if not found.numel():
        return None
    first = int(found[0])
    return (
        f"{int(found.numel()) * _PIECE} bytes, from value {first * right.shape[1]} on, stand in the"
        " tensor a second time, and the reference has other values there"
    )


def _doubled(pieces: Tensor) -> Tensor:
    """Which pieces stand in the tensor more than once, by a hash of 64 bits."""
    generator = torch.Generator().manual_seed(1)
    words = _words(pieces)
    factors = torch.randint(
        -(1 << 62), 1 << 62, (words.shape[1],), generator=generator, dtype=torch.int64
    )
    hashes = torch.cat([(part * factors).sum(1) for part in words.split(_MOST)])
    ordered, order = hashes.sort()
    alike = ordered[1:] == ordered[:-1]
    twice = torch.zeros(len(hashes), dtype=torch.bool)
    twice[order[1:][alike]] = True
    twice[order[:-1][alike]] = True
    return twice


def _constant(pieces: Tensor) -> Tensor:
    """Which pieces hold one value throughout."""
    words = _words(pieces)
    found = (words == words[:, :1]).all(1)
    if bool(found.any()):
        found[found.clone()] = (pieces[found] == pieces[found][:, :1]).all(1)
    return found


def _words(pieces: Tensor) -> Tensor:
    """The pieces as words of eight bytes, a quarter of the work of single values."""
    aligned = pieces if pieces.data_ptr() % 8 == 0 else pieces.clone()
    return aligned.reshape(-1).view(torch.int64).view(len(pieces), -1)


def _changed(left: Tensor, right: Tensor) -> Tensor:
    """Which pieces differ; of unlike dtypes all, as nothing is equal to the bit."""
    if left.dtype != right.dtype:
        return torch.ones(right.shape[0], dtype=torch.bool)
    return (left != right).any(1)


def _region(left: Tensor, right: Tensor, alike: bool, width: int) -> str | None:
    if not alike:
        return None
    differs = left != right
    pieces = differs.any(1)
    count = int(pieces.sum())
    if not count or count > _REGION * len(pieces):
        return None
    if float(differs[pieces].float().mean()) < _DENSE or int(differs.sum()) * width < _PIECE:
        return None
    places = pieces.nonzero().flatten()
    stretches = 1 + int((places[1:] - places[:-1] > 1).sum())
    where = "1 place" if stretches == 1 else f"{stretches} places"
    first = int(places[0]) * right.shape[1]
    return (
        f"only about {count * _PIECE} bytes changed, in {where}, from about value"
        f" {first} of {right.numel()} on, and everything else is equal to the bit"
    )
