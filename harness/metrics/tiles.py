"""Where in the picture: means over a grid of tiles, and the worst tile of a video.

A pooled value hides a small defect: a bright 80x100 patch in 480x720 changes 2 % of the pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.metrics.base import Region

Tiles = NDArray[np.float64]
"""One value a tile: (R, C)."""

BAND_PX = 48
"""Frames are worked on in bands of about this height: intermediate results stay in the cache."""


@dataclass(frozen=True, eq=False)
class TileGrid:
    """Tiles that cover a frame; `rows` and `columns` hold the R + 1 and C + 1 edges in pixels.

    Grids from `covering` with equal arguments are one object.
    """

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]

    @classmethod
    @lru_cache(maxsize=64)
    def covering(cls, height_px: int, width_px: int, tile_px: int) -> TileGrid:
        """The grid whose tiles come closest to `tile_px`.

        Tiles along one axis differ by at most one pixel. A sliver at the border, left over by tiles
        of a fixed size, would be the noisiest tile and so the worst one far too often.
        """
        return cls(_edges(height_px, tile_px), _edges(width_px, tile_px))

    def bands(self) -> Iterator[slice]:
        """Rows of the frame, in bands of whole tiles that are about `BAND_PX` high."""
        for first, last in self._bands():
            yield slice(int(self.rows[first]), int(self.rows[last]))

    def means(self, values: NDArray[Any]) -> Tiles:
        """Mean of `values`, (H, W) or (H, W, channels), over each tile."""
        return self.means_by_band(lambda rows: values[rows])

    def means_by_band(self, of_rows: Callable[[slice], NDArray[Any]]) -> Tiles:
        """Mean over each tile of a map that `of_rows` computes band by band: rows -> (h, W[, c])."""
        strips: list[NDArray[Any]] = []
        channels = 1
        for first, last in self._bands():
            top = self.rows[first]
            values = of_rows(slice(int(top), int(self.rows[last])))
            channels = values.shape[2] if values.ndim == 3 else 1
            edges = self.rows[first : last + 1] - top
            # a sum over rows runs along memory; reduceat would take ten times as long here
            strips += [values[a:b].sum(axis=0) for a, b in pairwise(edges)]
        whole = np.stack(strips).astype(np.float64)
        sums = np.add.reduceat(whole if channels == 1 else whole.sum(axis=2), self._left, axis=1)
        return sums / (self._areas * channels)

    def mean(self, tiles: Tiles) -> float:
        """Mean over the frame from the means over its tiles."""
        return float((tiles * self._areas).sum() / self._areas.sum())

    def coarse_means(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Mean over each tile of a map (h, w) that covers the frame at another resolution: (R, C).

        Every sample of the map stands for its share of the frame: weights are overlaps with tiles.
        """
        rows = _overlaps(self.rows, values.shape[0])
        columns = _overlaps(self.columns, values.shape[1])
        return rows @ values.astype(np.float64) @ columns.T

    def worst(
        self, tile_values: NDArray[np.float64], *, higher_is_better: bool, first_frame: int = 0
    ) -> Region:
        """The worst tile of `tile_values` (frames, R, C), its frame counted from `first_frame`."""
        flat = np.argmin(tile_values) if higher_is_better else np.argmax(tile_values)
        frame, row, column = (int(i) for i in np.unravel_index(flat, tile_values.shape))
        value = float(tile_values[frame, row, column])
        return self.region(first_frame + frame, row, column, value)

    @property
    def _left(self) -> NDArray[np.intp]:
        return self.columns[:-1]

    @property
    def _areas(self) -> NDArray[np.intp]:
        return np.outer(np.diff(self.rows), np.diff(self.columns))

    def _bands(self) -> Iterator[tuple[int, int]]:
        """Each band as its first tile row and the one after its last."""
        first = 0
        for row in range(1, len(self.rows)):
            if self.rows[row] - self.rows[first] >= BAND_PX or row == len(self.rows) - 1:
                yield first, row
                first = row

    def region(self, frame: int, row: int, column: int, value: float) -> Region:
        """Tile (row, column) as a rectangle of a frame."""
        y, x = int(self.rows[row]), int(self.columns[column])
        return Region(
            frame=frame,
            y=y,
            x=x,
            height=int(self.rows[row + 1]) - y,
            width=int(self.columns[column + 1]) - x,
            value=value,
        )


def _edges(size_px: int, tile_px: int) -> NDArray[np.intp]:
    count = max(1, round(size_px / tile_px))
    return np.rint(np.linspace(0, size_px, count + 1)).astype(np.intp)


def _overlaps(edges: NDArray[np.intp], samples: int) -> NDArray[np.float64]:
    """Share of each sample in each tile along one axis: (tiles, samples), each row sums to 1."""
    scaled = edges * (samples / edges[-1])
    start = np.arange(samples)
    low = np.maximum(scaled[:-1, np.newaxis], start)
    high = np.minimum(scaled[1:, np.newaxis], start + 1)
    overlap = np.maximum(high - low, 0.0)
    return overlap / overlap.sum(axis=1, keepdims=True)
