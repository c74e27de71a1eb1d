"""The values of one metric, collected frame by frame in constant memory, and the score they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from harness.metrics.base import Region, Score, Traits, find_worst_frame
from harness.metrics.options import TileOptions
from harness.metrics.tiles import TileGrid, Tiles


def _as_measured(value: float) -> float:
    return value


class Series:
    """The tally of a metric that has one value and one map of tiles a frame.

    Of the tiles only the worst is kept. worst_is_largest: of what is measured. show: from what is
    measured and averaged (a squared error) to the metric's unit (dB), monotone; what was measured
    is then kept in `extra` under the name `measured`. weights: what a learned metric measures with.
    """

    def __init__(
        self,
        traits: Traits,
        options: TileOptions,
        grid: TileGrid,
        *,
        worst_is_largest: bool,
        first_frame: int = 0,
        show: Callable[[float], float] | None = None,
        measured: str | None = None,
        weights: str = "",
    ) -> None:
        self._traits, self._options, self._grid = traits, options, grid
        self._worst_is_largest = worst_is_largest
        self._first_frame = first_frame
        self._show = show or _as_measured
        self._measured = measured
        self._weights = weights
        self._values: list[float] = []
        self._worst: Region | None = None

    def add(self, measured: tuple[float, Tiles]) -> None:
        """Collect the next frame: its value and its tiles."""
        value, tiles = measured
        region = self._grid.worst(
            tiles[np.newaxis],
            higher_is_better=not self._worst_is_largest,
            first_frame=self._first_frame + len(self._values),
        )
        self._values.append(value)
        sign = 1 if self._worst_is_largest else -1
        if self._worst is None or sign * region.value > sign * self._worst.value:
            self._worst = region

    def score(self) -> Score:
        """Mean, worst frame and worst tile. Raises: ValueError, when no frame was added."""
        if self._worst is None:
            raise ValueError(f"{self._traits.name}: no frame was measured")
        per_frame = tuple(self._show(value) for value in self._values)
        return Score(
            spec=self._traits.spec(self._options, self._weights),
            value=self._show(float(np.mean(self._values))),
            per_frame=per_frame,
            worst_frame=find_worst_frame(
                per_frame,
                higher_is_better=self._traits.higher_is_better,
                first_frame=self._first_frame,
            ),
            worst_region=replace(self._worst, value=self._show(self._worst.value)),
            first_frame=self._first_frame,
            extra={self._measured: tuple(self._values)} if self._measured else {},
        )
