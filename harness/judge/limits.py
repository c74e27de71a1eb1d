"""Distances, and the limits that healthy members set to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNIT_ROUNDOFF = {"float32": 2.0**-24, "bfloat16": 2.0**-9, "float16": 2.0**-12}

FEWEST_MEMBERS = 4
"""With fewer healthy members there is no noise floor, and no check that needs one is scored."""

COLLAPSE_FACTOR = 4.0
"""A distance in float32 beyond this multiple of the largest healthy one is not rounding."""

FLOOR = UNIT_ROUNDOFF["float32"] / 4


def relative(a: NDArray[Any], b: NDArray[Any]) -> float:
    """|b - a| / |a| in float64; infinite where shapes differ, something is not finite, or a is zero.

    >>> relative(np.array([3.0, 4.0]), np.array([3.0, 4.5]))
    0.1
    """
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.inf
    x = a.astype(np.float64)
    gap, size = np.linalg.norm(b.astype(np.float64) - x), np.linalg.norm(x)
    if gap == 0:
        return 0.0
    return float(gap / size) if size > 0 else math.inf


@dataclass(frozen=True)
class Limit:
    """A limit, the healthy values behind it, and whether there were enough of them."""

    value: float
    healthy: list[float]
    enough: bool


def limit(healthy: Sequence[float], factor: float = COLLAPSE_FACTOR, floor: float = FLOOR) -> Limit:
    """`factor` times the largest finite value of the controls `healthy`, or of `floor` if larger."""
    finite = [value for value in healthy if math.isfinite(value)]
    largest = max([floor, *finite])
    return Limit(factor * largest, list(healthy), len(finite) >= FEWEST_MEMBERS)
