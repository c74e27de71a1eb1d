"""Flicker: does the brightness of the candidate jitter more, or less, than the reference's?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from harness.metrics.base import Metric, Region, Score, Traits, find_worst_frame
from harness.metrics.frames import FramePair
from harness.metrics.imaging import luma
from harness.metrics.options import TileOptions
from harness.metrics.tiles import TileGrid

TRAITS = Traits(
    name="flicker",
    version=1,
    unit="grey_level",
    higher_is_better=False,
    perfect=0.0,
    symmetric=True,
    minimum_frames=3,
)

Series = NDArray[np.float64]


def second_difference(brightness: Series) -> Series:
    """b[t+1] - 2 b[t] + b[t-1] along the first axis, (T, ...) -> (T - 2, ...), in grey levels.

    A fade or a steady motion is close to linear and cancels; alternation by +-a gives 4 a.

    >>> second_difference(np.array([0.0, 1.0, 2.0, 1.0])).tolist()
    [0.0, -2.0]
    """
    return brightness[2:] - 2.0 * brightness[1:-1] + brightness[:-2]


def flicker_energy(brightness: Series) -> Series:
    """Root mean square of `second_difference` over time: (T, ...) -> (...), in grey levels."""
    return np.sqrt(np.mean(second_difference(brightness) ** 2, axis=0))


def flicker(pair: FramePair, options: TileOptions) -> Score:
    """|energy of the candidate - energy of the reference| of the luma averaged over the frame.

    Range: from 0. Noise averages out over a frame, so a global jitter of a fraction of a grey level
    is seen. Equal energies out of phase are not: `temporal_difference` is there for those.
    `extra["signed_change_grey_level"]` is positive where the candidate flickers more. The worst
    region is the tile whose own energy changes most, at the frame where it changes most.
    Source: this project's own definition.
    """
    grid = TileGrid.covering(pair.height_px, pair.width_px, options.tile_px)
    lumas = [(luma(reference), luma(candidate)) for reference, candidate in pair]
    whole = np.array([[side.mean(dtype=np.float64) for side in sides] for sides in lumas])
    tiles = np.array([[grid.means(side) for side in sides] for sides in lumas])

    energy_reference, energy_candidate = flicker_energy(whole)
    change = float(energy_candidate - energy_reference)
    per_frame = tuple(_excess(whole).tolist())
    return Score(
        spec=TRAITS.spec(options),
        value=abs(change),
        per_frame=per_frame,
        worst_frame=find_worst_frame(per_frame, higher_is_better=False, first_frame=1),
        worst_region=_worst_region(grid, tiles),
        first_frame=1,
        extra={"signed_change_grey_level": (change,)},
    )


def _excess(brightness: Series) -> Series:
    """Per frame: change of |second difference| between the two sides on axis 1."""
    amplitude = np.abs(second_difference(brightness))
    return np.abs(amplitude[:, 1] - amplitude[:, 0])


def _worst_region(grid: TileGrid, tiles: Series) -> Region:
    energy = flicker_energy(tiles)
    change = np.abs(energy[1] - energy[0])
    region = grid.worst(change[np.newaxis], higher_is_better=False)
    row, column = np.unravel_index(np.argmax(change), change.shape)
    frame = 1 + int(np.argmax(_excess(tiles)[:, row, column]))
    return replace(region, frame=frame)


METRIC = Metric(TRAITS, TileOptions, flicker)
