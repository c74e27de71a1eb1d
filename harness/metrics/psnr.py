"""Peak signal-to-noise ratio: how large the error is, pixel by pixel."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from harness.metrics.base import Metric, Score, Traits, find_worst_frame
from harness.metrics.frames import DATA_RANGE, FramePair, Grey
from harness.metrics.options import TileOptions
from harness.metrics.tiles import TileGrid

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


def psnr(pair: FramePair, options: TileOptions) -> Score:
    """PSNR of a video from its mean MSE, which one equal frame cannot lift to infinity.

    `extra["mse_grey2"]` keeps the per-frame MSE. The worst region is the tile of largest MSE.
    """
    grid = TileGrid.covering(pair.height_px, pair.width_px, options.tile_px)
    mse: list[float] = []
    tiles: list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = []
    for reference, candidate in pair:
        error = squared_error(reference, candidate)
        mse.append(float(error.mean(dtype=np.float64)))
        tiles.append(grid.means(error))
    per_frame = tuple(psnr_from_mse(value) for value in mse)
    worst_tile = grid.worst(np.stack(tiles), higher_is_better=False)
    return Score(
        spec=TRAITS.spec(options),
        value=psnr_from_mse(float(np.mean(mse))),
        per_frame=per_frame,
        worst_frame=find_worst_frame(per_frame, higher_is_better=True),
        worst_region=replace(worst_tile, value=psnr_from_mse(worst_tile.value)),
        extra={"mse_grey2": tuple(mse)},
    )


METRIC = Metric(TRAITS, TileOptions, psnr)
