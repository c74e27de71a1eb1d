"""Paired difference of frame differences: does the candidate change when the reference changes?"""

from __future__ import annotations

import numpy as np

from harness.metrics.base import Metric, Score, Traits, find_worst_frame
from harness.metrics.frames import FramePair, Grey
from harness.metrics.options import TileOptions
from harness.metrics.tiles import TileGrid

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


def temporal_difference(pair: FramePair, options: TileOptions) -> Score:
    """Mean of `transition_difference` over all values and transitions.

    Unlike a ratio or a correlation of motion it keeps the amplitude, and unlike a measure of one
    video it cannot reward a frozen clip. Source: the idea of tOF and tLP (Chu et al., "TecoGAN",
    2020) with plain frame differences in place of flow and features.
    """
    grid = TileGrid.covering(pair.height_px, pair.width_px, options.tile_px)
    means: list[float] = []
    tiles: list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = []
    error_before: Grey | None = None
    for reference, candidate in pair:
        error = candidate - reference
        if error_before is not None:
            change = transition_difference(error_before, error)
            means.append(float(change.mean(dtype=np.float64)))
            tiles.append(grid.means(change))
        error_before = error
    return Score(
        spec=TRAITS.spec(options),
        value=float(np.mean(means)),
        per_frame=tuple(means),
        worst_frame=find_worst_frame(means, higher_is_better=False, first_frame=1),
        worst_region=grid.worst(np.stack(tiles), higher_is_better=False, first_frame=1),
        first_frame=1,
    )


METRIC = Metric(TRAITS, TileOptions, temporal_difference)
