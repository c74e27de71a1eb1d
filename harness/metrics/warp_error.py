"""Warp error: does the candidate move as the reference does?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.metrics.base import Metric, Score, Traits, Unscored
from harness.metrics.frames import FrameSize, Grey
from harness.metrics.imaging import absolute_difference, dense_flow, luma_plane, sample
from harness.metrics.moment import Moment
from harness.metrics.options import TileOptions
from harness.metrics.series import Series
from harness.metrics.tiles import TileGrid, Tiles

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

    outside: (H, W), True where that lies outside the frame before, which then says nothing.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    outside: NDArray[np.bool_]


def motion(reference: Moment) -> Motion:
    """The motion from the frame before to this one, by the optical flow between their lumas."""
    flow = dense_flow(reference.once(luma_plane), reference.previous().once(luma_plane))
    height, width = flow.shape[:2]
    x = flow[..., 0] + np.arange(width, dtype=np.float32)
    y = flow[..., 1] + np.arange(height, dtype=np.float32)[:, np.newaxis]
    return Motion(x, y, (x < 0) | (x > width - 1) | (y < 0) | (y > height - 1))


def residual_tiles(moment: Moment, along: Motion, grid: TileGrid) -> Tiles:
    """Tile means of |frame - frame before, warped along a motion| per value, in grey levels.

    Pixels that come from outside the frame count as 0.
    """
    before = moment.previous().grey()

    def of_rows(rows: slice) -> Grey:
        residual = absolute_difference(
            moment.grey(rows), sample(before, along.x[rows], along.y[rows])
        )
        residual[along.outside[rows]] = 0.0
        return residual

    return grid.means_by_band(of_rows)


def _own_residual_tiles(reference: Moment, grid: TileGrid) -> Tiles:
    return residual_tiles(reference, reference.once(motion), grid)


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
        self._grid = TileGrid.covering(size.height_px, size.width_px, options.tile_px)
        self._change = Series(TRAITS, options, self._grid, worst_is_largest=True, first_frame=1)
        self._reference: list[float] = []
        self._candidate: list[float] = []

    def measure(self, reference: Moment, candidate: Moment) -> tuple[Tiles, Tiles]:
        own = reference.once(_own_residual_tiles, self._grid)
        return own, residual_tiles(candidate, reference.once(motion), self._grid)

    def add(self, measured: tuple[Tiles, Tiles]) -> None:
        own, other = measured
        self._reference.append(self._grid.mean(own))
        self._candidate.append(self._grid.mean(other))
        change = abs(self._candidate[-1] - self._reference[-1])
        self._change.add(change, np.abs(other - own))

    def score(self) -> Score:
        signed = float(np.mean(np.subtract(self._candidate, self._reference)))
        return self._change.score(
            {
                "reference_grey_level": tuple(self._reference),
                "candidate_grey_level": tuple(self._candidate),
                "signed_change_grey_level": (signed,),
            }
        )


def start_warp_error(size: FrameSize, options: TileOptions) -> WarpErrorMeter | Unscored:
    """A meter, unless the frames are too small for an optical flow."""
    if size.shortest_px < MINIMUM_SIDE_PX:
        return TRAITS.unscored(
            f"frames of {size.height_px}x{size.width_px} px are too small for optical flow",
            f"render at least {MINIMUM_SIDE_PX}x{MINIMUM_SIDE_PX} px, or drop warp_error here",
        )
    return WarpErrorMeter(size, options)


METRIC = Metric(TRAITS, TileOptions, start_warp_error)
