"""Paired difference of frame differences: does the candidate change when the reference changes?"""

from __future__ import annotations

from collections.abc import Sequence

from harness.metrics.base import Metric, Traits
from harness.metrics.frames import FrameSize, Grey
from harness.metrics.imaging import absolute_difference
from harness.metrics.moment import Moment
from harness.metrics.options import TileOptions
from harness.metrics.series import Series
from harness.metrics.tiles import TileGrid, TileMeans, Tiles

TRAITS = Traits(
    name="temporal_difference",
    version=1,
    unit="grey_level",
    higher_is_better=False,
    perfect=0.0,
    symmetric=True,
    minimum_frames=2,
)


def transition_difference(error_before: Grey, error_after: Grey) -> Grey:
    """|(c[t+1] - c[t]) - (r[t+1] - r[t])| per value, from the errors c - r of two neighbours.

    Shapes: (H, W, 3) twice -> (H, W, 3). Unit: grey levels. Range: 0 to 510.
    An error that stays as it is (a constant shift, a still patch) gives 0: only time is seen here.

    >>> import numpy as np
    >>> one = np.ones((1, 1, 3), dtype=np.float32)
    >>> float(transition_difference(3 * one, -3 * one).max())
    6.0
    """
    return absolute_difference(error_after, error_before)


class TemporalDifferenceMeter:
    """Mean of `transition_difference` over all values and transitions.

    Unlike a ratio or a correlation of motion it keeps the amplitude, and unlike a measure of one
    video it cannot reward a frozen clip. Source: the idea of tOF and tLP (Chu et al., "TecoGAN",
    2020) with plain frame differences in place of flow and features.
    """

    first_frame = 1

    def __init__(self, size: FrameSize, options: TileOptions) -> None:
        self._options = options
        self._grid = TileGrid.covering(size.height_px, size.width_px, options.tile_px)

    def measure(self, reference: Moment, candidates: Sequence[Moment]) -> list[tuple[float, Tiles]]:
        found = [TileMeans(self._grid) for _ in candidates]
        for rows in self._grid.bands:
            before, after = reference.previous().grey(rows), reference.grey(rows)
            for candidate, tiles in zip(candidates, found, strict=True):
                error_before = candidate.previous().grey(rows)
                error_before -= before
                error_after = candidate.grey(rows)
                error_after -= after
                tiles.add(transition_difference(error_before, error_after))
        return [self._grid.with_mean(tiles.means()) for tiles in found]

    def tally(self) -> Series:
        return Series(TRAITS, self._options, self._grid, worst_is_largest=True, first_frame=1)


METRIC = Metric(TRAITS, TileOptions, TemporalDifferenceMeter)
