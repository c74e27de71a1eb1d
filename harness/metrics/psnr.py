"""Peak signal-to-noise ratio: how large the error is, pixel by pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from harness.metrics.base import Metric, Traits
from harness.metrics.frames import DATA_RANGE, FrameSize, Grey
from harness.metrics.moment import Moment
from harness.metrics.options import TileOptions
from harness.metrics.series import Series
from harness.metrics.tiles import TileGrid, TileMeans, Tiles

TRAITS = Traits(
    name="psnr", version=1, unit="dB", higher_is_better=True, perfect=math.inf, symmetric=True
)


def squared_error(reference: Grey, candidate: Grey) -> Grey:
    """(candidate - reference)^2 per value, in squared grey levels; any shape."""
    return np.square(candidate - reference)


def psnr_from_mse(mse: float) -> float:
    """PSNR in dB of a mean squared error in squared grey levels: 10 log10(255^2 / mse).

    Range: up to +inf, which is legal and means equality.
    Source: ITU-T J.247, as `skimage.metrics.peak_signal_noise_ratio` computes it.

    >>> round(psnr_from_mse(65.025), 6)
    30.0
    >>> psnr_from_mse(0.0)
    inf
    """
    return math.inf if mse == 0.0 else 10.0 * math.log10(DATA_RANGE**2 / mse)


class PsnrMeter:
    """PSNR of a video from its mean MSE, which one equal frame cannot lift to infinity.

    `extra["mse_grey2"]` keeps the per-frame MSE. The worst region is the tile of largest MSE.
    """

    first_frame = 0

    def __init__(self, size: FrameSize, options: TileOptions) -> None:
        self._options = options
        self._grid = TileGrid.covering(size.height_px, size.width_px, options.tile_px)

    def measure(self, reference: Moment, candidates: Sequence[Moment]) -> list[tuple[float, Tiles]]:
        found = [TileMeans(self._grid) for _ in candidates]
        for rows in self._grid.bands:
            wanted = reference.grey(rows)
            for candidate, tiles in zip(candidates, found, strict=True):
                tiles.add(squared_error(wanted, candidate.grey(rows)))
        return [self._grid.with_mean(tiles.means()) for tiles in found]

    def tally(self) -> Series:
        return Series(
            TRAITS, self._options, self._grid,
            worst_is_largest=True, show=psnr_from_mse, measured="mse_grey2",
        )  # fmt: skip


METRIC = Metric(TRAITS, TileOptions, PsnrMeter)
