"""What one tensor's values are: exact range, and a distribution estimated from a strided sample."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from harness.audit.records import Values

FP16_MAX = 65504.0
FP16_TINY = 2.0**-25
"""Half of float16's smallest subnormal: what is not above it becomes zero."""


def describe(tensor: Tensor, drawn: Tensor) -> Values:
    """Exact count, minimum, maximum and number of non-finite values; the rest from `drawn`."""
    low, high = _range(tensor)
    non_finite = 0
    if not (math.isfinite(low) and math.isfinite(high)):
        non_finite = int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0
        finite = tensor[torch.isfinite(tensor)]
        low, high = _range(finite) if finite.numel() else (math.nan, math.nan)
    values = drawn.numpy().astype(np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        values = np.zeros(1)
    size = np.abs(values)
    quantiles = np.quantile(values, (0.001, 0.01, 0.5, 0.99, 0.999))
    return Values(
        count=tensor.numel(),
        minimum=low,
        maximum=high,
        non_finite=non_finite,
        mean=float(values.mean()),
        std=float(values.std()),
        quantiles=[float(q) for q in quantiles],
        zero_share=float((size == 0).mean()),
        fp16_flushed_share=float(((size > 0) & (size <= FP16_TINY)).mean()),
    )


def _range(tensor: Tensor) -> tuple[float, float]:
    if not tensor.numel():
        return 0.0, 0.0
    try:
        low, high = torch.aminmax(tensor)
    except (RuntimeError, NotImplementedError):  # torch has no reductions of its float8 kinds
        low, high = torch.aminmax(tensor.float())
    return float(low), float(high)
