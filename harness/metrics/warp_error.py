"""Warp error: does the candidate move as the reference does?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.metrics.base import Metric, Score, Traits, Unscored
from harness.metrics.frames import FrameSize
from harness.metrics.imaging import absolute_difference, dense_flow, sample
from harness.metrics.moment import Moment
from harness.metrics.options import TileOptions
from harness.metrics.series import Series
from harness.metrics.tiles import TileGrid, TileMeans, Tiles

TRAITS = Traits(
    name="warp_error",
    version=1,
    unit="grey_level",
    higher_is_better=False,
    perfect=0.0,
    symmetric=False,
    minimum_frames=2,
)

MINIMUM_SIDE_PX = 16
"""Below this the optical flow's image pyramid has no level left."""


@dataclass(frozen=True)
class Motion:
    """Where each pixel of a frame comes from in the frame before: x, y in px, both (H, W) float32.

    outside: flat indices, ascending, of the pixels that come from outside the frame before, which
        says nothing about them.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    outside: NDArray[np.intp]


def motion(reference: Moment) -> Motion:
    """The motion from the frame before to this one, by the optical flow between their lumas."""
    flow = dense_flow(reference.luma, reference.previous().luma)
    height, width = flow.shape[:2]
    x = flow[..., 0] + np.arange(width, dtype=np.float32)
    y = flow[..., 1] + np.arange(height, dtype=np.float32)[:, np.newaxis]
    outside = (x < 0) | (x > width - 1) | (y < 0) | (y > height - 1)
    return Motion(x, y, np.flatnonzero(outside))


def residual_tiles(moment: Moment, along: Motion, grid: TileGrid) -> Tiles:
    """Tile means of |frame - frame before, warped along a motion| per value, in grey levels.

    Pixels that come from outside the frame count as 0.
    """
    before, found = moment.previous().grey(), TileMeans(grid)
    width = before.shape[1]
    for rows in grid.bands:
        warped = sample(before, along.x[rows], along.y[rows])
        residual = absolute_difference(moment.grey(rows), warped)
        first, last = np.searchsorted(along.outside, (rows.start * width, rows.stop * width))
        residual.reshape(-1, 3)[along.outside[first:last] - rows.start * width] = 0.0
        found.add(residual)
    return found.means()


class WarpErrorMeter:
    """Mean |candidate's warp error - reference's own|, both along the REFERENCE's flow.

    Range: 0 to 255. A flow of the candidate's own would excuse every wrong motion, and a frozen
    clip would be perfect; along the reference's flow it is not. Occlusions burden both sides alike
    and cancel. `extra` holds both sides' errors and the signed change: negative where the candidate
    is smoother (blur, less detail). The worst region is the tile whose error changes most.
    Source: warping error of Lai et al., ECCV 2018, made relative to the reference.
    """

    first_frame = 1

    def __init__(self, size: FrameSize, options: TileOptions) -> None:
        self._options = options
        self._grid = TileGrid.covering(size.height_px, size.width_px, options.tile_px)

    def measure(self, reference: Moment, candidates: Sequence[Moment]) -> list[tuple[Tiles, Tiles]]:
        along = motion(reference)
        own, *others = (
            residual_tiles(side, along, self._grid) for side in (reference, *candidates)
        )
        return [(own, other) for other in others]

    def tally(self) -> WarpErrorTally:
        return WarpErrorTally(self._options, self._grid)


class WarpErrorTally:
    """Collects the tiles of both sides' residuals."""

    def __init__(self, options: TileOptions, grid: TileGrid) -> None:
        self._grid = grid
        self._change = Series(TRAITS, options, grid, worst_is_largest=True, first_frame=1)
        self._reference: list[float] = []
        self._candidate: list[float] = []

    def add(self, measured: tuple[Tiles, Tiles]) -> None:
        own, other = measured
        self._reference.append(self._grid.mean(own))
        self._candidate.append(self._grid.mean(other))
        change = abs(self._candidate[-1] - self._reference[-1])
        self._change.add((change, np.abs(other - own)))

    def score(self) -> Score:
        signed = float(np.mean(np.subtract(self._candidate, self._reference)))
        extra = {
            "reference_grey_level": tuple(self._reference),
            "candidate_grey_level": tuple(self._candidate),
            "signed_change_grey_level": (signed,),
        }
        return replace(self._change.score(), extra=extra)


def start_warp_error(size: FrameSize, options: TileOptions) -> WarpErrorMeter | Unscored:
    """A meter, unless the frames are too small for an optical flow."""
    if size.shortest_px < MINIMUM_SIDE_PX:
        return TRAITS.unscored(
            f"frames of {size.height_px}x{size.width_px} px are too small for optical flow",
            f"render at least {MINIMUM_SIDE_PX}x{MINIMUM_SIDE_PX} px, or drop warp_error here",
        )
    return WarpErrorMeter(size, options)


METRIC = Metric(TRAITS, TileOptions, start_warp_error)
