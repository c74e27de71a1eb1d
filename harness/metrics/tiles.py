"""Where in the picture: means over a grid of tiles, and the worst tile of a video.

A pooled value hides a small defect: a bright 80x100 patch in 480x720 changes 2 % of the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.metrics.base import Region

Tiles = NDArray[np.float64]
"""One value a tile: (R, C)."""

BAND_PX = 96
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

    @property
    def bands(self) -> tuple[slice, ...]:
        """Rows of the frame, in bands of whole tiles that are about `BAND_PX` high."""
        edges = [int(self.rows[0])]
        for row in self.rows[1:]:
            if row - edges[-1] >= BAND_PX or row == self.rows[-1]:
                edges.append(int(row))
        return tuple(slice(top, bottom) for top, bottom in pairwise(edges))

    def means(self, values: NDArray[Any]) -> Tiles:
        """Mean of `values`, (H, W) or (H, W, channels), over each tile."""
        collected = TileMeans(self)
        collected.add(values)
        return collected.means()

    def mean(self, tiles: Tiles) -> float:
        """Mean over the frame from the means over its tiles."""
        return float((tiles * self.areas).sum() / self.areas.sum())

    def with_mean(self, tiles: Tiles) -> tuple[float, Tiles]:
        """Mean over the frame, and the tiles that it comes from."""
        return self.mean(tiles), tiles

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
    def areas(self) -> NDArray[np.intp]:
        """Pixels in each tile: (R, C)."""
        return np.outer(np.diff(self.rows), np.diff(self.columns))

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


class TileMeans:
    """Means over the tiles of a map that is computed band by band, from the top."""

    def __init__(self, grid: TileGrid) -> None:
        self._grid = grid
        self._strips: list[NDArray[Any]] = []

    def add(self, band: NDArray[Any]) -> None:
        """The next rows of the map, whole tiles: (h, W) or (h, W, channels)."""
        edges = self._grid.rows[len(self._strips) :]
        top = int(edges[0])
        for first, last in pairwise(edges - top):
            if last > len(band):
                break
            # a sum over rows runs along memory; reduceat would take ten times as long here
            self._strips.append(band[first:last].sum(axis=0))

    def means(self) -> Tiles:
        """The mean over each tile, once all rows were added."""
        strips = np.stack(self._strips)
        flat = strips.reshape(len(strips), -1)
        columns = self._grid.columns
        channels = flat.shape[1] // int(columns[-1])
        sums = np.add.reduceat(flat, columns[:-1] * channels, axis=1, dtype=np.float64)
        return sums / (self._grid.areas * channels)


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
