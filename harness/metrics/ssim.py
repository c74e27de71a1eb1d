"""Structural similarity: whether local patterns survive, in the definition of Wang et al."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.metrics.base import Metric, Traits, Unscored
from harness.metrics.frames import DATA_RANGE, FrameSize, Grey
from harness.metrics.imaging import add_scaled, add_square, gaussian_blur
from harness.metrics.moment import Moment
from harness.metrics.options import TileOptions
from harness.metrics.series import Series
from harness.metrics.tiles import TileGrid, TileMeans, Tiles

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
    """What SSIM needs of a band of the reference, whatever it is compared with.

    values: the band in grey levels, (h + margins, W, 3). twice_mean: 2 mx, in grey levels, and
    variance: vx + C2, in squared grey levels; both (h, W, 3).
    """

    values: Grey
    twice_mean: Grey
    variance: Grey


def local_statistics(reference: Moment, rows: slice) -> LocalStatistics:
    """The reference's part of SSIM in these rows."""
    values, inside = _with_margin(reference, rows)
    x = values - MID_GREY
    mean = gaussian_blur(x, RADIUS_PX, SIGMA_PX)[inside]
    variance = gaussian_blur(np.square(x, out=x), RADIUS_PX, SIGMA_PX)[inside]
    variance -= np.square(mean)
    variance += C2
    mean += MID_GREY
    mean *= TWO
    return LocalStatistics(values, mean, variance)


def similarity(reference: LocalStatistics, candidate: Moment, rows: slice) -> Grey:
    """SSIM at every pixel and channel of these rows: (h, W, 3) in [-1, 1].

    S = (2 mx my + C1)(2 cov + C2) / ((mx^2 + my^2 + C1)(vx + vy + C2)), where means, variances and
    the covariance (of the population) are weighted by an 11-tap Gaussian of 1.5 px. With d = y - x
    it is computed as
    S = (2 mx my + C1)(vx + vy + C2 - vd) / ((2 mx my + C1 + md^2)(vx + vy + C2)),
    which is exactly 1 for equal frames and loses nothing to cancellation between similar ones.
    Source: Wang et al., IEEE TIP 13 (2004); equals `skimage.metrics.structural_similarity` with
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False to 1e-5 of the score.
    """
    # Memory sets the pace: in place, in few passes, and variances with the opposite sign, as a
    # blur can negate for nothing and `add_square` then takes one pass for m^2 - E[y^2].
    y, inside = _with_margin(candidate, rows)
    d = y - reference.values
    minus_variance_d = gaussian_blur(np.square(d, out=d), RADIUS_PX, SIGMA_PX, sign=-1)[inside]
    y -= MID_GREY  # variances do not see an offset, and lose less to rounding so
    mean = gaussian_blur(y, RADIUS_PX, SIGMA_PX)[inside]
    minus_variance = gaussian_blur(np.square(y, out=y), RADIUS_PX, SIGMA_PX, sign=-1)[inside]
    add_square(minus_variance, mean)
    mean += MID_GREY
    mean_d = add_scaled(mean, reference.twice_mean, -0.5)
    add_square(minus_variance_d, mean_d)

    variances = np.subtract(reference.variance, minus_variance, out=minus_variance)
    luminance = np.multiply(mean, reference.twice_mean, out=mean)
    luminance += C1
    structure = np.add(minus_variance_d, variances, out=minus_variance_d)
    structure *= luminance
    luminance += np.square(mean_d, out=mean_d)
    luminance *= variances
    return np.divide(structure, luminance, out=structure)


def _with_margin(moment: Moment, rows: slice) -> tuple[Grey, slice]:
    """Rows and those around them that the window reaches; where the rows lie in that."""
    top = max(0, rows.start - RADIUS_PX)
    values = moment.grey(slice(top, rows.stop + RADIUS_PX))
    return values, slice(rows.start - top, rows.stop - top)


class SsimMeter:
    """Mean SSIM over the frames, after computing it at full size and on every channel.

    A frame's value leaves out the 5 px at the border that the window overhangs. The worst region
    is looked for in the whole frame, the border included: a defect may sit there.
    """

    first_frame = 0

    def __init__(self, size: FrameSize, options: TileOptions) -> None:
        self._options = options
        self._grid = TileGrid.covering(size.height_px, size.width_px, options.tile_px)
        self._rows = slice(RADIUS_PX, size.height_px - RADIUS_PX)
        self._values = (size.height_px - 2 * RADIUS_PX) * (size.width_px - 2 * RADIUS_PX) * 3

    def measure(self, reference: Moment, candidates: Sequence[Moment]) -> list[tuple[float, Tiles]]:
        found = [TileMeans(self._grid) for _ in candidates]
        totals = [0.0] * len(candidates)
        for rows in self._grid.bands:
            statistics = local_statistics(reference, rows)
            for number, candidate in enumerate(candidates):
                values = similarity(statistics, candidate, rows)
                found[number].add(values)
                totals[number] += self._inner_sum(values, rows)
        means = [total / self._values for total in totals]
        return [(mean, tiles.means()) for mean, tiles in zip(means, found, strict=True)]

    def tally(self) -> Series:
        return Series(TRAITS, self._options, self._grid, worst_is_largest=False)

    def _inner_sum(self, values: Grey, rows: slice) -> float:
        top, bottom = (max(0, edge - rows.start) for edge in (self._rows.start, self._rows.stop))
        by_column = values[top:bottom].sum(axis=0)[RADIUS_PX:-RADIUS_PX]
        return float(by_column.sum(dtype=np.float64))


def start_ssim(size: FrameSize, options: TileOptions) -> SsimMeter | Unscored:
    """A meter, unless the frames are smaller than the window."""
    if size.shortest_px < WINDOW_PX:
        return TRAITS.unscored(
            f"frames of {size.height_px}x{size.width_px} px are smaller than the window",
            f"render at least {WINDOW_PX}x{WINDOW_PX} px, or drop ssim for this case",
        )
    return SsimMeter(size, options)


METRIC = Metric(TRAITS, TileOptions, start_ssim)
