"""What an option does by itself: the reference under it against the reference as configured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]

LARGEST_SHARE = 0.5
"""Of what separates unrelated videos, the most that an option may change by itself and still pass. It
bounds nothing that a stage decides: beyond it the option has made another video, whose worth no
comparison with the reference can vouch for."""


def share_of_unrelated(plain: Sequence[Frames], under: Sequence[Frames]) -> float | None:
    """The largest share, over seeds, frames and quarters of frames; None where shapes differ.

    `plain` and `under` hold one video (T, H, W, 3) a seed. Two unrelated videos of standard deviation
    s lie sqrt(2) s apart in root mean square, so a quarter that went black or a frame that was
    exchanged comes near 1 or beyond, whatever the contrast.

    >>> video = np.tile(np.arange(0, 256, 16, dtype=np.uint8)[None, None, :, None], (2, 16, 1, 3))
    >>> share_of_unrelated([video], [video])
    0.0
    >>> half = video.copy(); half[:, :8] = 0
    >>> share_of_unrelated([video], [half]) > LARGEST_SHARE
    True
    """
    shares = [0.0]
    for a, b in zip(plain, under, strict=True):
        if a.shape != b.shape:
            return None
        for x, y in zip(a.astype(np.float64), b.astype(np.float64), strict=True):
            spread = np.sqrt(2.0) * max(float(x.std()), 1.0)  # a flat frame: one grey level
            squared = (x - y) ** 2
            worst = max(float(part.mean()) for part in _quarters(squared))
            shares.append(float(np.sqrt(worst)) / spread)
    return max(shares)


def _quarters(values: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    rows, columns = (max(1, size // 2) for size in values.shape[:2])
    return [
        part
        for half in (values[:rows], values[rows:])
        for part in (half[:, :columns], half[:, columns:])
        if part.size
    ]
