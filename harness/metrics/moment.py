"""One frame of one video on its way past the metrics."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.metrics.frames import Grey, grey_levels
from harness.metrics.imaging import luma

_BAND_PX = 96


class Moment:
    """Frame `index` (counted from 0) of a video; `before` is the one that precedes it, if any."""

    def __init__(self, index: int, raw: NDArray[Any], before: Moment | None) -> None:
        self.index = index
        self.before = before
        self._raw = raw

    def grey(self, rows: slice = slice(None)) -> Grey:
        """These rows of the frame in grey levels, (h, W, 3). A new array each time: it is cheap."""
        return grey_levels(self._raw[rows])

    @cached_property
    def luma(self) -> Grey:
        """The luma of the frame, (H, W) in grey levels; kept, because several metrics read it.

        Two threads may both compute it: they find the same, and no lock has to be waited for.
        """
        height = len(self._raw)
        return np.concatenate(
            [luma(self.grey(slice(top, top + _BAND_PX))) for top in range(0, height, _BAND_PX)]
        )

    def previous(self) -> Moment:
        """The frame before. Raises: ValueError, at the first frame of a video."""
        if self.before is None:
            raise ValueError(f"frame {self.index} has no frame before it")
        return self.before
