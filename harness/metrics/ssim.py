"""Structural similarity: whether local patterns survive, in the definition of Wang et al."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.metrics.base import Metric, Score, Traits, Unscored
from harness.metrics.frames import DATA_RANGE, FrameSize, Grey
from harness.metrics.imaging import gaussian_blur
from harness.metrics.moment import Moment
from harness.metrics.options import TileOptions
from harness.metrics.series import Series
from harness.metrics.tiles import TileGrid, Tiles

TRAITS = Traits(
    name="ssim", version=1, unit="1", higher_is_better=True, perfect=1.0, symmetric=True
)

SIGMA_PX = 1.5
RADIUS_PX = 5
WINDOW_PX = 2 * RADIUS_PX + 1
C1 = np.float32((0.01 * DATA_RANGE) ** 2)
C2 = np.float32((0.03 * DATA_RANGE) ** 2)
MID_GREY = np.float32(DATA_RANGE / 2)
TWO = np.float32(2.0)


@dataclass(frozen=True)
class LocalStatistics:
    """What SSIM needs of a band of the reference, whatever it is compared with; all (h, W, 3).

    Values are centred on mid-grey: variances do not see an offset, and lose less to cancellation
    in float32. Some are doubled here, which is exact, instead of once for every candidate.

    twice_values: with up to `RADIUS_PX` rows more on both sides, which the window reaches.
    """

    twice_values: Grey
    twice_mean: Grey
    variance: Grey
    twice_luminance: Grey
    luminance_squared: Grey


def local_statistics(reference: Moment, grid: TileGrid) -> list[LocalStatistics]:
    """The reference's part of SSIM, one record for each band of `grid`."""
    found: list[LocalStatistics] = []
    for rows in grid.bands():
        x, inside = _centred(reference, rows)
        mean = _blur(x)[inside]
        variance = _blur(np.square(x))[inside]
        variance -= np.square(mean)
        luminance = mean + MID_GREY
        found.append(
            LocalStatistics(x * TWO, mean * TWO, variance, luminance * TWO, np.square(luminance))
        )
    return found


def similarity(reference: LocalStatistics, candidate: Moment, rows: slice) -> Grey:
    """SSIM at every pixel and channel of these rows: (h, W, 3) in [-1, 1].

    S = (2 mx my + C1)(2 cov + C2) / ((mx^2 + my^2 + C1)(vx + vy + C2)), where means, variances and
    the covariance (of the population) are weighted by an 11-tap Gaussian of 1.5 px.
    Source: Wang et al., IEEE TIP 13 (2004); equals `skimage.metrics.structural_similarity` with
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False to 1e-5 of the score.
    """
    # In place and in this order: equal frames give exactly 1, as 2 cov and vx + vy round alike.
    y, inside = _centred(candidate, rows)
    mean = _blur(y)[inside]
    twice_covariance = _blur(reference.twice_values * y)[inside]
    variances = _blur(np.square(y, out=y))[inside]
    work = reference.twice_mean * mean
    twice_covariance -= work
    twice_covariance += C2
    variances -= np.square(mean, out=work)
    variances += reference.variance
    variances += C2
    mean += MID_GREY
    np.multiply(reference.twice_luminance, mean, out=work)
    work += C1
    twice_covariance *= work
    np.square(mean, out=work)
    work += reference.luminance_squared
    work += C1
    variances *= work
    return np.divide(twice_covariance, variances, out=twice_covariance)


def _centred(moment: Moment, rows: slice) -> tuple[Grey, slice]:
    """Rows and those around them that the window reaches, minus mid-grey; where the rows lie in it."""
    top = max(0, rows.start - RADIUS_PX)
    values = moment.grey(slice(top, rows.stop + RADIUS_PX))
    values -= MID_GREY
    return values, slice(rows.start - top, rows.stop - top)


def _blur(image: Grey) -> Grey:
    return gaussian_blur(image, RADIUS_PX, SIGMA_PX)


class SsimMeter:
    """Mean SSIM over the frames, after computing it at full size and on every channel.

    A frame's value leaves out the 5 px at the border that the window overhangs. The worst region
    is looked for in the whole frame, the border included: a defect may sit there.
    """

    first_frame = 0

    def __init__(self, size: FrameSize, options: TileOptions) -> None:
        self._size = size
        self._grid = TileGrid.covering(size.height_px, size.width_px, options.tile_px)
        self._series = Series(TRAITS, options, self._grid, worst_is_largest=False)

    def measure(self, reference: Moment, candidate: Moment) -> tuple[float, Tiles]:
        bands = iter(reference.once(local_statistics, self._grid))
        first, last = RADIUS_PX, self._size.height_px - RADIUS_PX
        total = 0.0

        def of_rows(rows: slice) -> Grey:
            nonlocal total
            values = similarity(next(bands), candidate, rows)
            inner = values[max(0, first - rows.start) : max(0, last - rows.start)]
            by_column = inner.sum(axis=0)[RADIUS_PX:-RADIUS_PX]
            total += float(by_column.sum(dtype=np.float64))
            return values

        tiles = self._grid.means_by_band(of_rows)
        count = (last - first) * (self._size.width_px - 2 * RADIUS_PX) * 3
        return total / count, tiles

    def add(self, measured: tuple[float, Tiles]) -> None:
        self._series.add(*measured)

    def score(self) -> Score:
        return self._series.score()


def start_ssim(size: FrameSize, options: TileOptions) -> SsimMeter | Unscored:
    """A meter, unless the frames are smaller than the window."""
    if size.shortest_px < WINDOW_PX:
        return TRAITS.unscored(
            f"frames of {size.height_px}x{size.width_px} px are smaller than the window",
            f"render at least {WINDOW_PX}x{WINDOW_PX} px, or drop ssim for this case",
        )
    return SsimMeter(size, options)


METRIC = Metric(TRAITS, TileOptions, start_ssim)
