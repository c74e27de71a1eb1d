"""Distance between two latents, for the judge's traces."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def latent_distance(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Relative L2 distance |b - a| / |a|, in float64, over all values; `a` is the reference.

    Shapes: any, equal. Unit: 1. Range: from 0; inf when only `a` is zero; NaN when a value is not
    finite, which the caller has to treat as broken. Not symmetric.
    Raises: ValueError on different shapes or nothing to compare; broadcasting would hide it.

    >>> latent_distance(np.array([3.0, 4.0]), np.array([3.0, 4.5]))
    0.1
    """
    if a.shape != b.shape or a.size == 0:
        raise ValueError(
            f"latent_distance got a reference of shape {a.shape} and a candidate of {b.shape}, "
            "expected one shape with no empty axis; convert both to (B, T, C, H, W) first"
        )
    reference = a.astype(np.float64)
    candidate = b.astype(np.float64)
    if not (np.isfinite(reference).all() and np.isfinite(candidate).all()):
        return math.nan
    distance = float(np.linalg.norm(candidate - reference))
    norm = float(np.linalg.norm(reference))
    if norm == 0.0:
        return 0.0 if distance == 0.0 else math.inf
    return distance / norm
