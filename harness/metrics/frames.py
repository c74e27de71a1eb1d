"""Two videos as metrics see them: checked once, then consumed frame by frame in grey levels.

Every metric works on float32 frames in grey levels, 0 to `DATA_RANGE`, whatever came in: uint8
values are then exact, and errors read in the unit that people know. The range is a constant of the
contract, never derived from the data. A `Video` is read once, frame by frame, so that a stored one
need not fit into memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

DATA_RANGE = 255.0
"""Distance from black to white in grey levels."""

Grey = NDArray[np.float32]
"""A frame (H, W, 3) or a plane (H, W) in grey levels."""


class FramesUnusableError(ValueError):
    """The two videos cannot be compared; `remedy` says what to do next."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


class Video(Protocol):
    """Frames (H, W, 3) in order: an array (T, H, W, 3), or a stored video decoded while it is read."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


@dataclass(frozen=True)
class FrameSize:
    """The size of a frame in pixels."""

    height_px: int
    width_px: int

    @property
    def shortest_px(self) -> int:
        return min(self.height_px, self.width_px)


def grey_levels(frame: NDArray[Any]) -> Grey:
    """uint8 (0 to 255) or float32 ([0, 1]) of any shape -> float32 grey levels.

    >>> grey_levels(np.array([0.0, 1.0], dtype=np.float32))
    array([  0., 255.], dtype=float32)
    """
    # row by row in memory, whatever came in: the order of a sum, and so its last bits, depend on it
    if frame.dtype == np.uint8:
        return frame.astype(np.float32, order="C")
    return np.multiply(frame, np.float32(DATA_RANGE), order="C")


def check_layout(frames: Video, side: str) -> None:
    """Raise `FramesUnusableError` unless `frames` is (T, H, W, 3), not empty, uint8 or float32."""
    if len(frames.shape) != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise FramesUnusableError(
            f"the {side} has shape {frames.shape}, expected (T, H, W, 3) with no empty axis",
            "convert the frames at the adapter; the canonical layout is (T, H, W, 3)",
        )
    if not (frames.dtype == np.uint8 or frames.dtype == np.float32):
        raise FramesUnusableError(
            f"the {side} has dtype {frames.dtype}, expected uint8 (0 to 255) or float32 ([0, 1])",
            "convert the frames at the adapter; values in another dtype have no agreed range",
        )


def check_pair(reference: Video, candidate: Video) -> None:
    """Check that two videos can be compared; nothing is cropped, truncated or cast to fit.

    Raises: FramesUnusableError, when a layout or dtype is not the canonical one, or when the two
        differ in either. Values are checked as they pass, by `RangeCheck`.
    """
    check_layout(reference, "reference")
    check_layout(candidate, "candidate")
    if reference.shape != candidate.shape:
        raise FramesUnusableError(
            f"the reference has shape {reference.shape} but the candidate has {candidate.shape}",
            "render both sides from one case; frame count and size must be equal",
        )
    if reference.dtype != candidate.dtype:
        raise FramesUnusableError(
            f"the reference is {reference.dtype} but the candidate is {candidate.dtype}",
            "quantise both or neither; rounding on one side alone looks like a difference",
        )


class RangeCheck:
    """Counts, frame by frame, the values of one video that are not finite or not in [0, 1].

    uint8 frames hold no such value. `non_finite` and `outside` (finite, but not in [0, 1]) are the
    counts so far.
    """

    def __init__(self) -> None:
        self.non_finite = 0
        self.outside = 0
        self._frames = 0
        self._first_bad = 0
        self._low, self._high = math.inf, -math.inf

    @property
    def legal(self) -> bool:
        return self.non_finite == 0 and self.outside == 0

    def add(self, raw: NDArray[Any]) -> None:
        """Look at the next frame."""
        if raw.dtype != np.uint8:
            # min and max propagate NaN and show infinities: two passes decide the ordinary case
            low, high = float(raw.min()), float(raw.max())
            if not (low >= 0.0 and high <= 1.0):
                self._count(raw)
                low, high = (low, high) if math.isfinite(high - low) else (math.inf, -math.inf)
            self._low, self._high = min(self._low, low), max(self._high, high)
        self._frames += 1

    def _count(self, raw: NDArray[Any]) -> None:
        finite = np.isfinite(raw)
        bad = int(raw.size - finite.sum())
        if bad and not self.non_finite:
            self._first_bad = self._frames
        self.non_finite += bad
        self.outside += int((finite & ((raw < 0.0) | (raw > 1.0))).sum())

    def error(self, side: str) -> FramesUnusableError | None:
        """What is wrong with the values of this `side`, once all frames have passed; None if legal."""
        if self.non_finite:
            return FramesUnusableError(
                f"the {side} holds {self.non_finite} values that are not finite, first in frame"
                f" {self._first_bad}",
                "look in the trace for the first step whose latents are not finite",
            )
        if self.outside:
            return FramesUnusableError(
                f"the {side} holds values from {self._low:.6g} to {self._high:.6g}, expected [0, 1]",
                "let the adapter apply its stack's own post-processing: (x / 2 + 0.5), clamped to"
                " [0, 1]",
            )
        return None
