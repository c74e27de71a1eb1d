"""What was done to a video after it was decoded, told from the two videos.

Each kind is a hypothesis that makes the wrong video from the right one: other frames in its places,
another order of channels, a shift, a mirror, a gain and an offset, brightness that flickers, a blur,
colour at half the resolution. The first that leaves little of the difference is named, with frame and
channel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Video = NDArray[np.float64]

EXPLAINS = 0.35
"""The part of the difference (root mean square) that a kind may leave. Two roundings to uint8 leave 0.4
grey levels; of a gain of 1.015 that is a fourth."""

ROUNDED = 0.6
"""Grey levels, root mean square, that rounding leaves of a video that is explained."""

FARTHEST_SHIFT = 1 / 8
"""The part of the shorter side by which a shift is looked for, each way: the border that it leaves
undecided is less than half of the picture."""

CHANNELS = ("red", "green", "blue")


@dataclass(frozen=True)
class FramesFault:
    """`kind` in a word or two, and in `told` how much, where and in which channel."""

    kind: str
    told: str


def frames_fault(expected: NDArray[Any], came: NDArray[Any]) -> FramesFault:
    """What turns `expected` into `came`, both (T, H, W, 3) in grey levels 0 to 255."""
    a, b = expected.astype(np.float64), came.astype(np.float64)
    if a.shape != b.shape:
        return _reshaped(a, b)
    gap = _rms(b - a)
    if gap == 0:
        return FramesFault("none", "no frame differs")
    for kind in (_moved, _channels, _mirrored, _shifted, _levels, _flicker, _chroma, _blurred):
        for told, made in kind(a, b):
            if _rms(b - made) <= max(EXPLAINS * gap, min(ROUNDED, 0.6 * gap)):
                name = told.partition(":")[0]
                return FramesFault(name, told.removeprefix(f"{name}: "))
    return FramesFault("other values", _place(a, b))


def _rms(values: Video) -> float:
    return math.sqrt(float((values**2).mean()))


def _reshaped(a: Video, b: Video) -> FramesFault:
    if a.shape[1:] == b.shape[1:]:
        return _recounted(a, b)
    sizes = [f"{v.shape[1]}x{v.shape[2]}" for v in (b, a)]
    told = f"{sizes[0]} pixels (height x width) where {sizes[1]} were decoded"
    smaller = all(x <= y for x, y in zip(b.shape, a.shape, strict=True))
    if smaller:
        rows, columns = (x - y + 1 for x, y in zip(a.shape[1:3], b.shape[1:3], strict=True))
        for top, left in ((r, c) for r in range(rows) for c in range(columns)):
            window = a[: len(b), top : top + b.shape[1], left : left + b.shape[2]]
            if _rms(window - b) <= ROUNDED:
                return FramesFault("crop", f"{told}: cut out at row {top}, column {left}")
    return FramesFault("size", told)


def _recounted(a: Video, b: Video) -> FramesFault:
    told = f"{len(b)} frames where {len(a)} were decoded"
    if len(b) < len(a):
        lost = [t for t in range(len(a)) if not _held(a[t], b)]
        named = f": frame {_few(lost)} missing" if lost else ""
        return FramesFault("frames missing", told + named)
    return FramesFault("frames added", told)


def _held(frame: Video, video: Video) -> bool:
    return any(_rms(each - frame) <= ROUNDED for each in video)


def _few(frames: list[int]) -> str:
    shown = ", ".join(map(str, frames[:6]))
    return shown + (", ..." if len(frames) > 6 else "")


def _moved(a: Video, b: Video) -> Iterator[tuple[str, Video]]:
    """Every frame of `b` is some frame of `a`."""
    gaps = np.array([[_rms(b[t] - each) for each in a] for t in range(len(b))])
    own = np.diagonal(gaps)
    best = gaps.argmin(axis=1)
    best = np.where(own <= gaps.min(axis=1) + ROUNDED, np.arange(len(a)), best)
    changed = [t for t in range(len(a)) if best[t] != t]
    if not changed:
        return
    first = changed[0]
    if len(changed) == 2 and best[changed[0]] == changed[1] and best[changed[1]] == changed[0]:
        told = f"swap: frames {changed[0]} and {changed[1]} are exchanged"
    elif list(best) == list(range(len(a)))[::-1]:
        told = "order: the frames run backwards"
    elif all(best[t] == t - 1 for t in changed) and len(changed) > 1:
        told = f"late frames: from frame {first} on every frame is the one before"
    elif len(set(best)) < len(best):
        told = f"duplicated frame: frame {first} is frame {best[first]} once more"
    else:
        told = f"order: frame {first} is frame {best[first]}"
    yield told, a[best]


def _channels(a: Video, b: Video) -> Iterator[tuple[str, Video]]:
    for order in permutations(range(3)):
        if order != (0, 1, 2):
            named = ", ".join(CHANNELS[i] for i in order)
            yield f"channel order: red, green, blue hold {named}", a[..., list(order)]


def _mirrored(a: Video, b: Video) -> Iterator[tuple[str, Video]]:
    yield "mirror: left and right are exchanged", a[:, :, ::-1]
    yield "mirror: top and bottom are exchanged", a[:, ::-1]


def _shifted(a: Video, b: Video) -> Iterator[tuple[str, Video]]:
    from skimage.registration import phase_cross_correlation

    if not (math.isfinite(a.sum() + b.sum()) and a.any() and b.any()):
        return  # it warns of empty videos and refuses NaN
    some = slice(None, None, max(1, len(a) // 4))
    found, _, _ = phase_cross_correlation(b[some], a[some])
    down, right = int(found[1]), int(found[2])
    border = max(abs(down), abs(right))
    if 0 < border <= FARTHEST_SHIFT * min(a.shape[1:3]):
        inner = slice(border, -border)
        edged = b.copy()
        edged[:, inner, inner] = np.roll(a, (down, right), axis=(1, 2))[:, inner, inner]
        yield f"shift: {down} pixels down and {right} right", edged


def _levels(a: Video, b: Video) -> Iterator[tuple[str, Video]]:
    """One gain and one offset for all, then for each channel of its own."""
    gain, offset = _fitted(a, b)
    made = (a * gain + offset).clip(0, 255)
    if abs(gain - 1) * _spread(a) < abs(offset + (gain - 1) * float(a.mean())) / 4:
        yield (
            f"offset: every value is {float((b - a).mean()):+.3g} grey levels off",
            (a + float((b - a).mean())).clip(0, 255),
        )
    yield f"gain: values are {gain:.4g} times as large, {offset:+.3g} grey levels", made
    fits = [_fitted(a[..., c], b[..., c]) for c in range(3)]
    made = np.stack([a[..., c] * g + o for c, (g, o) in enumerate(fits)], axis=-1).clip(0, 255)
    worst = max(range(3), key=lambda c: _rms(b[..., c] - a[..., c]))
    gain, offset = fits[worst]
    yield (
        (
            f"gain: {CHANNELS[worst]} is {gain:.4g} times as large, {offset:+.3g} grey levels, other"
            " channels differ from it"
        ),
        made,
    )


def _spread(a: Video) -> float:
    return float(a.std())


def _fitted(a: Video, b: Video) -> tuple[float, float]:
    """Least squares b = gain a + offset over values that are not clipped."""
    free = (b > 0) & (b < 255)
    x, y = (a[free], b[free]) if free.sum() > 16 else (a.ravel(), b.ravel())
    variance = float(((x - x.mean()) ** 2).mean())
    if variance < 1e-9:
        return 1.0, float(y.mean() - x.mean())
    gain = float(((x - x.mean()) * (y - y.mean())).mean()) / variance
    return gain, float(y.mean() - gain * x.mean())


def _flicker(a: Video, b: Video) -> Iterator[tuple[str, Video]]:
    """A gain and an offset of its own in each frame."""
    fits = [_fitted(x, y) for x, y in zip(a, b, strict=True)]
    made = np.stack([x * g + o for x, (g, o) in zip(a, fits, strict=True)]).clip(0, 255)
    shifts = [float((y - x).mean()) for x, y in zip(a, b, strict=True)]
    hit = [t for t, shift in enumerate(shifts) if abs(shift) > 0.5 * max(map(abs, shifts))]
    if len(hit) == 1:
        yield f"brightness of frame {hit[0]}: {shifts[hit[0]]:+.3g} grey levels on average", made
    low, high = min(shifts), max(shifts)
    told = f"flicker: frames are {low:+.3g} to {high:+.3g} grey levels off, each by its own"
    yield f"{told}; most in frame {int(np.argmax(np.abs(shifts)))}", made


_LUMA = np.array([0.299, 0.587, 0.114])


def _chroma(a: Video, b: Video) -> Iterator[tuple[str, Video]]:
    """Brightness kept, colour not: what a codec at 4:2:0 does."""
    luma = (b - a) @ _LUMA
    if _rms(luma) <= EXPLAINS * _rms(b - a):
        yield "codec: colour is lost and brightness kept, as at half the colour resolution", b


def _blurred(a: Video, b: Video) -> Iterator[tuple[str, Video]]:
    from scipy.ndimage import uniform_filter

    for size in (3, 5):
        made = uniform_filter(a, size, mode="nearest", axes=(1, 2))
        yield f"blur: like a mean over {size}x{size} pixels", made
    soft = uniform_filter(a, 3, mode="nearest", axes=(1, 2))
    detail = a - soft
    strength = float(((b - a) * detail).sum() / max(float((detail**2).sum()), 1e-9))
    kind = "sharpening" if strength > 0 else "blur"
    yield f"{kind}: fine detail is {1 + strength:.3g} times as strong", a + strength * detail


def _place(a: Video, b: Video) -> str:
    """Where it lies: the worst frame, its channel, and the part of the picture that it is kept to."""
    gap = np.abs(b - a)
    frame = int(gap.mean(axis=(1, 2, 3)).argmax())
    channel = CHANNELS[int(gap[frame].mean(axis=(0, 1)).argmax())]
    rows, columns = np.nonzero(gap[frame].max(axis=2) > max(1.0, 0.1 * float(gap[frame].max())))
    where = ""
    if len(rows):
        top, bottom, left, right = rows.min(), rows.max(), columns.min(), columns.max()
        where = f", rows {top} to {bottom}, columns {left} to {right}"
    frames = int((gap.mean(axis=(1, 2, 3)) > 0.5).sum())
    return f"{frames} of {len(a)} frames, most in frame {frame}, {channel}{where}"
