"""Warp error: does the candidate move as the reference does?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.metrics.base import Metric, Score, Traits, Unscored, find_worst_frame
from harness.metrics.frames import FramePair, Grey
from harness.metrics.imaging import dense_flow, luma, sample
from harness.metrics.options import TileOptions
from harness.metrics.tiles import TileGrid

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


def backward_flow(before: Grey, after: Grey) -> NDArray[np.float32]:
    """Where in `before` each pixel of `after` comes from: (H, W, 3) twice -> (H, W, 2) in px."""
    return dense_flow(luma(after), luma(before))


def warp_residual(before: Grey, after: Grey, flow: NDArray[np.float32]) -> Grey:
    """|after - before warped by `flow`| per value: (H, W, 3), in grey levels, 0 to 255.

    Pixels that come from outside the frame are 0: the frame before says nothing about them.
    """
    height, width = after.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    x, y = columns + flow[..., 0], rows + flow[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return np.abs(after - sample(before, x, y)) * inside[..., np.newaxis]


def warp_error(pair: FramePair, options: TileOptions) -> Score | Unscored:
    """Mean |candidate's warp error - reference's own|, both along the REFERENCE's flow.

    Range: 0 to 255. A flow of the candidate's own would excuse every wrong motion, and a frozen
    clip would be perfect; along the reference's flow it is not. Occlusions burden both sides alike
    and cancel. `extra` holds both sides' errors and the signed change: negative where the candidate
    is smoother (blur, less detail). The worst region is the tile whose error changes most.
    Source: warping error of Lai et al., ECCV 2018, made relative to the reference.
    """
    if min(pair.height_px, pair.width_px) < MINIMUM_SIDE_PX:
        return TRAITS.unscored(
            f"frames of {pair.height_px}x{pair.width_px} px are too small for optical flow",
            f"render at least {MINIMUM_SIDE_PX}x{MINIMUM_SIDE_PX} px, or drop warp_error here",
        )
    grid = TileGrid.covering(pair.height_px, pair.width_px, options.tile_px)
    sides: list[tuple[float, float]] = []
    tiles: list[NDArray[np.float64]] = []
    before: tuple[Grey, Grey] | None = None
    for now in pair:
        if before is not None:
            flow = backward_flow(before[0], now[0])
            own, other = (warp_residual(*side, flow) for side in zip(before, now, strict=True))
            sides.append((float(own.mean(dtype=np.float64)), float(other.mean(dtype=np.float64))))
            tiles.append(np.abs(grid.means(other) - grid.means(own)))
        before = now
    errors = np.array(sides)
    signed = errors[:, 1] - errors[:, 0]
    per_frame = tuple(np.abs(signed).tolist())
    return Score(
        spec=TRAITS.spec(options),
        value=float(np.mean(per_frame)),
        per_frame=per_frame,
        worst_frame=find_worst_frame(per_frame, higher_is_better=False, first_frame=1),
        worst_region=grid.worst(np.stack(tiles), higher_is_better=False, first_frame=1),
        first_frame=1,
        extra={
            "reference_grey_level": tuple(errors[:, 0].tolist()),
            "candidate_grey_level": tuple(errors[:, 1].tolist()),
            "signed_change_grey_level": (float(np.mean(signed)),),
        },
    )


METRIC = Metric(TRAITS, TileOptions, warp_error)
