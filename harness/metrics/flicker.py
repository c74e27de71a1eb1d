"""Flicker: does the brightness of the candidate jitter more, or less, than the reference's?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.metrics.base import Metric, Region, Score, Traits, find_worst_frame
from harness.metrics.frames import FrameSize
from harness.metrics.moment import Moment
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


@dataclass(frozen=True)
class Brightness:
    """Mean luma of one frame on both sides: of the frame (2,), and of its tiles (2, R, C)."""

    whole: Series
    tiles: Series


class FlickerMeter:
    """|energy of the candidate - energy of the reference| of the luma averaged over the frame.

    Energy: root mean square of `second_difference` over time, in grey levels. Range: from 0.
    Noise averages out over a frame, so a global jitter of a fraction of a grey level is seen. Equal
    energies out of phase are not: `temporal_difference` is there for those.
    `extra["signed_change_grey_level"]` is positive where the candidate flickers more. The worst
    region is the tile whose own energy changes most, at the frame where it changes most.
    Source: this project's own definition.
    """

    first_frame = 0

    def __init__(self, size: FrameSize, options: TileOptions) -> None:
        self._options = options
        self._grid = TileGrid.covering(size.height_px, size.width_px, options.tile_px)

    def measure(self, reference: Moment, candidates: Sequence[Moment]) -> list[Brightness]:
        own, *others = (self._grid.means(side.luma) for side in (reference, *candidates))
        return [
            Brightness(
                np.array([self._grid.mean(own), self._grid.mean(other)]), np.stack([own, other])
            )
            for other in others
        ]

    def tally(self) -> FlickerTally:
        return FlickerTally(self._options, self._grid)


class FlickerTally:
    """Collects brightness; three frames are kept, and for each tile its largest excess."""

    def __init__(self, options: TileOptions, grid: TileGrid) -> None:
        self._options, self._grid = options, grid
        self._last: list[Brightness] = []
        self._excess: list[float] = []
        self._squares_whole = np.zeros(2)
        self._squares_tiles = np.zeros((2, *grid.areas.shape))
        self._largest_excess = np.full(grid.areas.shape, -1.0)
        self._frame_of_largest = np.zeros(grid.areas.shape, dtype=np.intp)

    def add(self, measured: Brightness) -> None:
        self._last.append(measured)
        if len(self._last) < 3:
            return
        whole = second_difference(np.stack([b.whole for b in self._last]))[0]
        tiles = second_difference(np.stack([b.tiles for b in self._last]))[0]
        del self._last[0]
        self._squares_whole += whole**2
        self._squares_tiles += tiles**2
        self._excess.append(float(_excess(whole)))
        excess = _excess(tiles)
        grown = excess > self._largest_excess
        self._largest_excess[grown] = excess[grown]
        self._frame_of_largest[grown] = len(self._excess)

    def score(self) -> Score:
        energy = np.sqrt(self._squares_whole / len(self._excess))
        change = float(energy[1] - energy[0])
        per_frame = tuple(self._excess)
        return Score(
            spec=TRAITS.spec(self._options),
            value=abs(change),
            per_frame=per_frame,
            worst_frame=find_worst_frame(per_frame, higher_is_better=False, first_frame=1),
            worst_region=self._worst_region(),
            first_frame=1,
            extra={"signed_change_grey_level": (change,)},
        )

    def _worst_region(self) -> Region:
        energy = np.sqrt(self._squares_tiles / len(self._excess))
        change = np.abs(energy[1] - energy[0])
        region = self._grid.worst(change[np.newaxis], higher_is_better=False)
        worst = np.unravel_index(np.argmax(change), change.shape)
        return replace(region, frame=int(self._frame_of_largest[worst]))


def _excess(difference: Series) -> Series:
    """Change of |second difference| between the two sides, which are on the first axis."""
    amplitude = np.abs(difference)
    return np.abs(amplitude[1] - amplitude[0])


METRIC = Metric(TRAITS, TileOptions, FlickerMeter)
