"""Structural similarity as scikit-image computes it: what `ssim`, eight times as fast, is held to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from harness.metrics.base import Metric, Traits, Unscored
from harness.metrics.frames import DATA_RANGE, FrameSize
from harness.metrics.moment import Moment
from harness.metrics.options import TileOptions
from harness.metrics.series import Series
from harness.metrics.ssim import SIGMA_PX, WINDOW_PX
from harness.metrics.tiles import TileGrid, Tiles

TRAITS = Traits(
    name="ssim_skimage", version=1, unit="1", higher_is_better=True, perfect=1.0, symmetric=True
)


class SkimageSsimMeter:
    """`skimage.metrics.structural_similarity` in float64, in the definition of Wang et al.

    A frame's value leaves out the 5 px at the border, the worst region does not.
    """

    first_frame = 0

    def __init__(self, size: FrameSize, options: TileOptions) -> None:
        self._options = options
        self._grid = TileGrid.covering(size.height_px, size.width_px, options.tile_px)

    def measure(self, reference: Moment, candidates: Sequence[Moment]) -> list[tuple[float, Tiles]]:
        wanted = reference.grey().astype(np.float64)
        found = [_similarity(wanted, each.grey().astype(np.float64)) for each in candidates]
        return [(mean, self._grid.means(values)) for mean, values in found]

    def tally(self) -> Series:
        return Series(TRAITS, self._options, self._grid, worst_is_largest=False)


def _similarity(
    reference: NDArray[np.float64], candidate: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """The mean of two frames (H, W, 3) in grey levels, and the map over pixels and channels."""
    from skimage.metrics import structural_similarity

    found = structural_similarity(
        reference, candidate, gaussian_weights=True, sigma=SIGMA_PX, use_sample_covariance=False,
        channel_axis=-1, data_range=DATA_RANGE, full=True,
    )  # fmt: skip
    mean, values = cast("tuple[float, NDArray[np.float64]]", found)
    return float(mean), values


def start_ssim(size: FrameSize, options: TileOptions) -> SkimageSsimMeter | Unscored:
    """A meter, unless the frames are smaller than the window."""
    if size.shortest_px < WINDOW_PX:
        return TRAITS.unscored(
            f"frames of {size.height_px}x{size.width_px} px are smaller than the window",
            f"render at least {WINDOW_PX}x{WINDOW_PX} px, or drop ssim_skimage for this case",
        )
    return SkimageSsimMeter(size, options)


METRIC = Metric(TRAITS, TileOptions, start_ssim)
