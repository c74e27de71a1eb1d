"""Duplicated, late and early frames: a reading, not a score, because a count has no tolerance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.metrics.frames import Video, check_pair, grey_levels
from harness.metrics.imaging import luma
from harness.metrics.tiles import TileGrid

TILE_PX = 8
"""Frames are matched by their tile means: noise averages out, motion of a few pixels remains."""

MAXIMUM_LAG_FRAMES = 2
STILL_SHARE = 0.1
"""A candidate's step below this share of the reference's step counts as none."""

MATCH_SHARE = 0.5
"""Another frame must match this much better, in squared error, before a lag is reported."""

MINIMUM_STEP_GREY = 0.25
"""Below it the reference itself stands still, and no frame can be told from its neighbour."""


@dataclass(frozen=True)
class FrameTiming:
    """duplicated: candidate frames that repeat their predecessor while the reference moves on.

    lag_frames: per candidate frame, how many frames late its content is (negative: early, 0: in
        time or undecidable).
    """

    duplicated: tuple[int, ...]
    lag_frames: tuple[int, ...]

    @property
    def late(self) -> tuple[int, ...]:
        return tuple(frame for frame, lag in enumerate(self.lag_frames) if lag > 0)

    @property
    def early(self) -> tuple[int, ...]:
        return tuple(frame for frame, lag in enumerate(self.lag_frames) if lag < 0)


def frame_timing(reference: Video, candidate: Video) -> FrameTiming:
    """Match each candidate frame with the reference's frames around it, by luma tile means.

    A still reference gives no duplicates and no lags: there is nothing to be late for.
    Raises: FramesUnusableError, when the two cannot be compared.
    """
    check_pair(reference, candidate)
    grid = TileGrid.covering(*reference.shape[1:3], TILE_PX)
    a, b = (
        np.stack([grid.means(luma(grey_levels(frame))) for frame in video])
        for video in (reference, candidate)
    )
    return FrameTiming(_duplicated(a, b), _lags(a, b))


def _duplicated(reference: NDArray[np.float64], candidate: NDArray[np.float64]) -> tuple[int, ...]:
    expected = np.abs(np.diff(reference, axis=0)).mean(axis=(1, 2))
    actual = np.abs(np.diff(candidate, axis=0)).mean(axis=(1, 2))
    repeated = (expected >= MINIMUM_STEP_GREY) & (actual <= STILL_SHARE * expected)
    return tuple((np.flatnonzero(repeated) + 1).tolist())


def _lags(reference: NDArray[np.float64], candidate: NDArray[np.float64]) -> tuple[int, ...]:
    lags: list[int] = []
    for frame, content in enumerate(candidate):
        first = max(0, frame - MAXIMUM_LAG_FRAMES)
        window = reference[first : frame + MAXIMUM_LAG_FRAMES + 1]
        errors = np.mean((window - content) ** 2, axis=(1, 2))
        in_time = frame - first
        best = int(np.argmin(errors))
        steps = np.abs(window[best] - window[in_time]).mean()
        clear = errors[best] < MATCH_SHARE * errors[in_time] and steps >= MINIMUM_STEP_GREY
        lags.append(in_time - best if clear else 0)
    return tuple(lags)
