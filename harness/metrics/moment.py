"""One frame of one video on its way past the metrics, and what has been derived from it so far."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, TypeVar, cast

from numpy.typing import NDArray

from harness.metrics.frames import Grey, grey_levels

T = TypeVar("T")


class Moment:
    """Frame `index` (counted from 0) of a video; `before` is the one that precedes it, if any.

    What several metrics or several candidates need of a frame (luma, flow, SSIM's local means, a
    network's features) is derived through `once`, and so computed a single time.
    """

    def __init__(self, index: int, raw: NDArray[Any], before: Moment | None) -> None:
        self.index = index
        self.before = before
        self._raw = raw
        self._slots: dict[Hashable, _Slot] = {}
        self._lock = Lock()

    def grey(self, rows: slice = slice(None)) -> Grey:
        """These rows of the frame in grey levels, (h, W, 3) float32. Not kept: converting is cheap."""
        return grey_levels(self._raw[rows])

    def previous(self) -> Moment:
        """The frame before. Raises: ValueError, at the first frame of a video."""
        if self.before is None:
            raise ValueError(f"frame {self.index} has no frame before it")
        return self.before

    def once(self, derive: Callable[..., T], *arguments: Hashable) -> T:
        """`derive(self, *arguments)`, computed by the first caller and remembered for the others.

        Callers may be threads: one that asks for something which is being computed waits for it.
        """
        with self._lock:
            slot = self._slots.setdefault((derive, arguments), _Slot())
        with slot.lock:
            if not slot.filled:
                slot.value = derive(self, *arguments)
                slot.filled = True
        return cast("T", slot.value)


class _Slot:
    def __init__(self) -> None:
        self.lock = Lock()
        self.filled = False
        self.value: Any = None
