"""Readings of one video alone: is it a video at all, and what would a person say about it?

Readings carry no limits for quality: the judge takes those from healthy renders. Only facts that
need no comparison (nothing moves, one colour, not a number) are stated here, in `hard_failures`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.metrics.frames import Grey, check_layout, grey_levels
from harness.metrics.imaging import convolve3, laplacian, luma, mean_and_deviation

EQUAL_GREY = 0.5
"""Values this close may round to one grey level: they count as equal."""

BLACK_GREY = 16.0
"""A frame that never exceeds this, the black level of studio-range video, counts as black."""

NOISE_KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float32)


@dataclass(frozen=True)
class Reading:
    """One quantity: the mean over frames, and per frame (per transition for motion)."""

    value: float
    per_frame: tuple[float, ...]
    unit: str


@dataclass(frozen=True)
class VideoReadings:
    """All readings of one video. Frames are counted from 0; a reading of NaN frames is NaN.

    still_frames: frames that equal their predecessor to half a grey level everywhere.
    """

    frame_count: int
    non_finite_count: int
    out_of_range_count: int
    constant_frames: tuple[int, ...]
    black_frames: tuple[int, ...]
    still_frames: tuple[int, ...]
    luminance: Reading
    contrast: Reading
    sharpness: Reading
    colourfulness: Reading
    noise_level: Reading
    motion_energy: Reading


def contrast(plane: Grey) -> float:
    """Root mean square contrast: standard deviation of the luma, in grey levels."""
    return mean_and_deviation(plane)[1]


def sharpness(plane: Grey) -> float:
    """Variance of the Laplacian of the luma, in squared grey levels (Pech-Pacheco et al., 2000)."""
    return mean_and_deviation(laplacian(plane))[1] ** 2


def noise_level(plane: Grey) -> float:
    """Standard deviation of the noise in grey levels; NaN below 3x3 px.

    sqrt(pi / 2) times the mean |luma * N| / 6, with N the difference of two Laplacians, which is
    blind to edges of constant slope. Source: Immerkaer, CVIU 64 (1996).
    """
    if min(plane.shape) < 3:
        return math.nan
    response = np.abs(convolve3(plane, NOISE_KERNEL)).mean(dtype=np.float64)
    return math.sqrt(math.pi / 2) * float(response) / 6.0


def colourfulness(frame: Grey) -> float:
    """Colourfulness of (H, W, 3), in grey levels: 0 is grey, above about 80 very colourful.

    sqrt(var rg + var yb) + 0.3 sqrt(mean rg^2 + mean yb^2) with rg = R - G, yb = (R + G) / 2 - B.
    Source: Hasler and Suesstrunk, SPIE 5007 (2003).
    """
    red, green, blue = frame[..., 0], frame[..., 1], frame[..., 2]
    opponents = (red - green, np.float32(0.5) * (red + green) - blue)
    means, deviations = zip(*map(mean_and_deviation, opponents), strict=True)
    return math.hypot(*deviations) + 0.3 * math.hypot(*means)


# infinities of one sign differ by NaN: that is what a broken frame has to read, without a warning
@np.errstate(invalid="ignore")
def read_video(frames: NDArray[Any]) -> VideoReadings:
    """Read (T, H, W, 3) uint8 or float32 frames; float frames may hold anything, NaN included.

    Raises: FramesUnusableError, when layout or dtype is not the canonical one.
    """
    check_layout(frames, "video")
    rows: list[tuple[float, ...]] = []
    motion: list[float] = []
    constant: list[int] = []
    black: list[int] = []
    still: list[int] = []
    before: tuple[Grey, Grey] | None = None
    for index, raw in enumerate(frames):
        frame = grey_levels(raw)
        plane = luma(frame)
        rows.append(
            (
                float(plane.mean(dtype=np.float64)),
                contrast(plane),
                sharpness(plane),
                colourfulness(frame),
                noise_level(plane),
            )
        )
        # NaN fails every comparison below: such a frame is none of constant, black or still
        if np.abs(frame - frame[0, 0]).max() <= EQUAL_GREY:
            constant.append(index)
        if np.abs(frame).max() <= BLACK_GREY:
            black.append(index)
        if before is not None:
            motion.append(float(np.abs(plane - before[1]).mean(dtype=np.float64)))
            if np.abs(frame - before[0]).max() <= EQUAL_GREY:
                still.append(index)
        before = (frame, plane)
    luminances, contrasts, sharpnesses, colours, noises = zip(*rows, strict=True)
    non_finite, out_of_range = _count_illegal(frames)
    return VideoReadings(
        frame_count=len(rows),
        non_finite_count=non_finite,
        out_of_range_count=out_of_range,
        constant_frames=tuple(constant),
        black_frames=tuple(black),
        still_frames=tuple(still),
        luminance=_reading(luminances, "grey_level"),
        contrast=_reading(contrasts, "grey_level"),
        sharpness=_reading(sharpnesses, "grey_level^2"),
        colourfulness=_reading(colours, "grey_level"),
        noise_level=_reading(noises, "grey_level"),
        motion_energy=_reading(motion, "grey_level"),
    )


def hard_failures(readings: VideoReadings) -> tuple[str, ...]:
    """What makes a video broken whatever its model: one sentence each, empty for a video.

    >>> hard_failures(read_video(np.zeros((2, 8, 8, 3), dtype=np.uint8)))
    ('all 2 frames are black', 'all 2 frames are of one colour', 'nothing moves in 2 frames')
    """
    count = readings.frame_count
    checks = (
        (readings.non_finite_count > 0, f"{readings.non_finite_count} values are not finite"),
        (
            readings.out_of_range_count > 0,
            f"{readings.out_of_range_count} values are not in [0, 1]",
        ),
        (len(readings.black_frames) == count, f"all {count} frames are black"),
        (len(readings.constant_frames) == count, f"all {count} frames are of one colour"),
        (len(readings.still_frames) == count - 1 > 0, f"nothing moves in {count} frames"),
    )
    return tuple(sentence for failed, sentence in checks if failed)


def _count_illegal(frames: NDArray[Any]) -> tuple[int, int]:
    """Values that are not finite, and finite values outside [0, 1]."""
    if frames.dtype == np.uint8:
        return 0, 0
    finite = np.isfinite(frames)
    outside = finite & ((frames < 0.0) | (frames > 1.0))
    return int(frames.size - finite.sum()), int(outside.sum())


def _reading(per_frame: Sequence[float], unit: str) -> Reading:
    # one frame has no motion to average: NaN says so, 0 would say "frozen"
    value = float(np.mean(per_frame)) if per_frame else math.nan
    return Reading(value, tuple(per_frame), unit)
