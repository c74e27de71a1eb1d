"""A small linear picture of a tensor, enough for distances and for replaying a linear solver.

A count sketch: fixed random signs (Philox, so the same everywhere), then sums over element index
modulo 512. The distance between two sketches estimates that between the arrays, with a relative error
of about sqrt(2 / 512) = 6 % (Charikar, Chen, Farach-Colton 2002); and because it is linear, what a
linear solver step does to latents it does to their sketches, exactly. Imports numpy alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SKETCH_SIZE = 512
_SIGN_SEED = 0x706172697479  # "parity"


def sketch_array(array: NDArray[Any]) -> NDArray[np.float32]:
    """Linear sketch (512,) float32 of an array of any shape."""
    values = array.reshape(-1)
    words = np.random.Philox(key=np.array([_SIGN_SEED, 0], dtype=np.uint64)).random_raw(
        -(-values.size // 64)
    )
    bits = np.unpackbits(words.astype("<u8").view(np.uint8))[: values.size]
    padded = np.zeros(-(-values.size // SKETCH_SIZE) * SKETCH_SIZE, dtype=np.float64)
    padded[: values.size] = np.where(bits, values, -values)
    return padded.reshape(-1, SKETCH_SIZE).sum(0).astype(np.float32)
