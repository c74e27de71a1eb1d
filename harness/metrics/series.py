"""The values of one metric, collected frame by frame in constant memory, and the score they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from harness.metrics.base import Region, Score, Traits, find_worst_frame
from harness.metrics.options import TileOptions
from harness.metrics.tiles import TileGrid, Tiles


def _as_measured(value: float) -> float:
    return value


class Series:
    """One value and one map of tiles a frame; of the tiles only the worst is kept.

    worst_is_largest: for what is measured. show: from what is measured and averaged (a squared
    error) to the metric's unit (dB); monotone.
    """

    def __init__(
        self,
        traits: Traits,
        options: TileOptions,
        grid: TileGrid,
        *,
        worst_is_largest: bool,
        first_frame: int = 0,
        show: Callable[[float], float] = _as_measured,
    ) -> None:
        self.values: list[float] = []
        self._traits, self._options, self._grid = traits, options, grid
        self._worst_is_largest = worst_is_largest
        self._first_frame = first_frame
        self._show = show
        self._worst: Region | None = None

    def add(self, value: float, tiles: Tiles) -> None:
        """Collect the next frame."""
        region = self._grid.worst(
            tiles[np.newaxis],
            higher_is_better=not self._worst_is_largest,
            first_frame=self._first_frame + len(self.values),
        )
        self.values.append(value)
        if self._worst is None or (
            region.value > self._worst.value
            if self._worst_is_largest
            else region.value < self._worst.value
        ):
            self._worst = region

    def score(self, extra: Mapping[str, tuple[float, ...]] | None = None) -> Score:
        """The score of all frames that were added: their mean, the worst of them, the worst tile."""
        if self._worst is None:
            raise ValueError(f"{self._traits.name}: no frame was measured")
        per_frame = tuple(self._show(value) for value in self.values)
        better_high = self._traits.higher_is_better
        return Score(
            spec=self._traits.spec(self._options),
            value=self._show(float(np.mean(self.values))),
            per_frame=per_frame,
            worst_frame=find_worst_frame(
                per_frame, higher_is_better=better_high, first_frame=self._first_frame
            ),
            worst_region=replace(self._worst, value=self._show(self._worst.value)),
            first_frame=self._first_frame,
            extra=extra or {},
        )
