"""Readings of one video alone: is it a video at all, and what would a person say about it?

Readings carry no limits for quality: the judge takes those from healthy renders. Only facts that
need no comparison (nothing moves, one colour, not a number) are stated here, in `hard_failures`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from harness.metrics.frames import Grey, RangeCheck, Video, check_layout
from harness.metrics.imaging import convolve3, laplacian, mean_and_deviation
from harness.metrics.moment import Moment

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


@dataclass(frozen=True)
class FrameReadings:
    """One frame's part of `VideoReadings`; motion and stillness are those since the frame before."""

    luminance: float
    contrast: float
    sharpness: float
    colourfulness: float
    noise_level: float
    constant: bool
    black: bool
    motion: float | None
    still: bool


# infinities of one sign differ by NaN: that is what a broken frame has to read, without a warning
@np.errstate(invalid="ignore")
def read_frame(moment: Moment) -> FrameReadings:
    """Read one frame, which may hold anything, NaN included: such a frame is none of constant,
    black or still, because NaN fails every comparison."""
    frame, plane = moment.grey(), moment.luma
    before = moment.before
    return FrameReadings(
        luminance=float(plane.mean(dtype=np.float64)),
        contrast=contrast(plane),
        sharpness=sharpness(plane),
        colourfulness=colourfulness(frame),
        noise_level=noise_level(plane),
        constant=bool(np.abs(frame - frame[0, 0]).max() <= EQUAL_GREY),
        black=bool(np.abs(frame).max() <= BLACK_GREY),
        motion=_motion(plane, before.luma) if before else None,
        still=before is not None and bool(np.abs(frame - before.grey()).max() <= EQUAL_GREY),
    )


class Reader:
    """Readings of one video, collected frame by frame."""

    def __init__(self) -> None:
        self._rows: list[FrameReadings] = []

    def add(self, row: FrameReadings) -> None:
        """Collect the next frame."""
        self._rows.append(row)

    def result(self, values: RangeCheck) -> VideoReadings:
        """The readings of all frames; `values` has seen them, too."""
        rows = self._rows
        return VideoReadings(
            frame_count=len(rows),
            non_finite_count=values.non_finite,
            out_of_range_count=values.outside,
            constant_frames=_where(row.constant for row in rows),
            black_frames=_where(row.black for row in rows),
            still_frames=_where(row.still for row in rows),
            luminance=_reading([row.luminance for row in rows], "grey_level"),
            contrast=_reading([row.contrast for row in rows], "grey_level"),
            sharpness=_reading([row.sharpness for row in rows], "grey_level^2"),
            colourfulness=_reading([row.colourfulness for row in rows], "grey_level"),
            noise_level=_reading([row.noise_level for row in rows], "grey_level"),
            motion_energy=_reading(
                [row.motion for row in rows if row.motion is not None], "grey_level"
            ),
        )


def read_video(frames: Video) -> VideoReadings:
    """Read (T, H, W, 3) uint8 or float32 frames; float frames may hold anything, NaN included.

    Raises: FramesUnusableError, when layout or dtype is not the canonical one.
    """
    check_layout(frames, "video")
    reader, values = Reader(), RangeCheck()
    before: Moment | None = None
    for index, raw in enumerate(frames):
        values.add(raw)
        moment = Moment(index, raw, before)
        reader.add(read_frame(moment))
        before, moment.before = moment, None
    return reader.result(values)


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


def _motion(plane: Grey, before: Grey) -> float:
    return float(np.abs(plane - before).mean(dtype=np.float64))


def _where(flags: Iterable[bool]) -> tuple[int, ...]:
    return tuple(index for index, flag in enumerate(flags) if flag)


def _reading(per_frame: Sequence[float], unit: str) -> Reading:
    # one frame has no motion to average: NaN says so, 0 would say "frozen"
    value = float(np.mean(per_frame)) if per_frame else math.nan
    return Reading(value, tuple(per_frame), unit)
