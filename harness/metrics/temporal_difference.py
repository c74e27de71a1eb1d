"""Paired difference of frame differences: does the candidate change when the reference changes?"""

from __future__ import annotations

import numpy as np

from harness.metrics.base import Metric, Score, Traits
from harness.metrics.frames import FrameSize, Grey
from harness.metrics.moment import Moment
from harness.metrics.options import TileOptions
from harness.metrics.series import Series
from harness.metrics.tiles import TileGrid, Tiles

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

    >>> one = np.ones((1, 1, 3), dtype=np.float32)
    >>> float(transition_difference(3 * one, -3 * one).max())
    6.0
    """
    return np.abs(error_after - error_before)


class TemporalDifferenceMeter:
    """Mean of `transition_difference` over all values and transitions.

    Unlike a ratio or a correlation of motion it keeps the amplitude, and unlike a measure of one
    video it cannot reward a frozen clip. Source: the idea of tOF and tLP (Chu et al., "TecoGAN",
    2020) with plain frame differences in place of flow and features.
    """

    first_frame = 1

    def __init__(self, size: FrameSize, options: TileOptions) -> None:
        self._grid = TileGrid.covering(size.height_px, size.width_px, options.tile_px)
        self._change = Series(TRAITS, options, self._grid, worst_is_largest=True, first_frame=1)

    def measure(self, reference: Moment, candidate: Moment) -> Tiles:
        before = reference.previous(), candidate.previous()

        def change(rows: slice) -> Grey:
            error_before = before[1].grey(rows) - before[0].grey(rows)
            error_after = candidate.grey(rows) - reference.grey(rows)
            return transition_difference(error_before, error_after)

        return self._grid.means_by_band(change)

    def add(self, measured: Tiles) -> None:
        self._change.add(self._grid.mean(measured), measured)

    def score(self) -> Score:
        return self._change.score()


METRIC = Metric(TRAITS, TileOptions, TemporalDifferenceMeter)
