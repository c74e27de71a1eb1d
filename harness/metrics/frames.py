"""Two videos as metrics see them: checked once, then consumed frame by frame in grey levels.

Every metric works on float32 frames in grey levels, 0 to `DATA_RANGE`, whatever came in: uint8
values are then exact, and errors read in the unit that people know. The range is a constant of the
contract, never derived from the data. Metrics iterate over a `FramePair` and need nothing else of
it but its size, so that a streaming pair can take its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class FramePair:
    """A reference and a candidate video, both (T, H, W, 3), checked by `pair_frames`."""

    reference: NDArray[Any]
    candidate: NDArray[Any]

    @property
    def frame_count(self) -> int:
        return int(self.reference.shape[0])

    @property
    def height_px(self) -> int:
        return int(self.reference.shape[1])

    @property
    def width_px(self) -> int:
        return int(self.reference.shape[2])

    def __iter__(self) -> Iterator[tuple[Grey, Grey]]:
        """Matching frames in order, each (H, W, 3) float32 in grey levels."""
        for reference, candidate in zip(self.reference, self.candidate, strict=True):
            yield grey_levels(reference), grey_levels(candidate)


def grey_levels(frame: NDArray[Any]) -> Grey:
    """uint8 (0 to 255) or float32 ([0, 1]) of any shape -> float32 grey levels.

    >>> grey_levels(np.array([0.0, 1.0], dtype=np.float32))
    array([  0., 255.], dtype=float32)
    """
    # row by row in memory, whatever came in: the order of a sum, and so its last bits, depend on it
    if frame.dtype == np.uint8:
        return frame.astype(np.float32, order="C")
    return np.multiply(frame, np.float32(DATA_RANGE), order="C")


def check_layout(frames: NDArray[Any], side: str) -> None:
    """Raise `FramesUnusableError` unless `frames` is (T, H, W, 3), not empty, uint8 or float32."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise FramesUnusableError(
            f"the {side} has shape {frames.shape}, expected (T, H, W, 3) with no empty axis",
            "convert the frames at the adapter; the canonical layout is (T, H, W, 3)",
        )
    if not (frames.dtype == np.uint8 or frames.dtype == np.float32):
        raise FramesUnusableError(
            f"the {side} has dtype {frames.dtype}, expected uint8 (0 to 255) or float32 ([0, 1])",
            "convert the frames at the adapter; values in another dtype have no agreed range",
        )


def pair_frames(reference: NDArray[Any], candidate: NDArray[Any]) -> FramePair:
    """Check two videos and pair them; nothing is cropped, truncated, clipped or cast to fit.

    Raises: FramesUnusableError, when a layout or dtype is not the canonical one, when the two
        differ in either, or when float frames hold values that are not finite or not in [0, 1].
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
    for side, frames in (("reference", reference), ("candidate", candidate)):
        if frames.dtype == np.float32:
            _check_range(frames, side)
    return FramePair(reference, candidate)


def _check_range(frames: NDArray[Any], side: str) -> None:
    # min and max propagate NaN and show infinities: two passes decide the ordinary case
    low, high = float(frames.min()), float(frames.max())
    if low >= 0.0 and high <= 1.0:
        return
    bad = ~np.isfinite(frames)
    if bad.any():
        first = int(np.argmax(bad.any(axis=(1, 2, 3))))
        raise FramesUnusableError(
            f"the {side} holds {int(bad.sum())} values that are not finite, first in frame {first}",
            "look in the trace for the first step whose latents are not finite",
        )
    raise FramesUnusableError(
        f"the {side} holds values from {low:.6g} to {high:.6g}, expected [0, 1]",
        "let the adapter apply its stack's own post-processing: (x / 2 + 0.5), clamped to [0, 1]",
    )
