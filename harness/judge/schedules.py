"""The noise schedule that a pipeline's declared policy and settings must give, worked out independently.

    beta_t      linear in its square root from beta_start to beta_end, 1000 levels, float64
    alpha_bar   prod (1 - beta), then shifted: alpha_bar / (s + (1 - s) alpha_bar)
    rescaled    sqrt(alpha_bar) moved and stretched so that the last level is 0 and the first stays
                (Lin et al. 2024, Algorithm 1)

Diffusers rescales all levels and then picks; SAT picks and then rescales.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.base import ScheduleTable

Levels = NDArray[np.float64]

TOLERANCE = 2e-6
"""Of sqrt(alpha_bar): SAT keeps it in float32, and rescales in float32."""

RIVALS: tuple[tuple[str, Any], ...] = (
    ("timestep_spacing", "linspace"),
    ("timestep_spacing", "leading"),
    ("rescale_betas_zero_snr", False),
    ("snr_shift_scale", 1.0),
    ("snr_shift_scale", 3.0),
)
"""Settings that a port is known to get wrong; a table that fits one of them is named after it."""


def _timesteps(settings: Mapping[str, Any], steps: int, subset: bool) -> list[int]:
    total = int(settings["num_train_timesteps"])
    if subset:  # SAT: evenly spaced from the last level, the end left out
        return [int(t) for t in np.linspace(total - 1, 0, steps, endpoint=False).astype(int)]
    spacing = settings["timestep_spacing"]
    if spacing == "linspace":
        return [int(t) for t in np.linspace(0, total - 1, steps).round()[::-1]]
    if spacing == "leading":
        offset = int(settings.get("steps_offset", 0))
        return [int(t) + offset for t in (np.arange(steps) * (total // steps)).round()[::-1]]
    return [int(t) - 1 for t in np.round(np.arange(total, 0, -total / steps))]


def _rescaled(alpha_bar: Levels) -> Levels:
    """Zero terminal SNR: the noisiest of `alpha_bar` (cleanest first) becomes 0."""
    root = np.sqrt(alpha_bar)
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def expected(settings: Mapping[str, Any], steps: int, subset: bool) -> tuple[list[int], Levels]:
    """Timesteps and alpha_bar (N,), noisiest first. `subset`: pick, then rescale, as SAT does.

    `settings` are the scheduler's under Diffusers' names.
    """
    roots = np.linspace(
        settings["beta_start"] ** 0.5, settings["beta_end"] ** 0.5, settings["num_train_timesteps"]
    )
    alpha_bar = np.cumprod(1 - roots**2)
    shift = float(settings["snr_shift_scale"])
    alpha_bar = alpha_bar / (shift + (1 - shift) * alpha_bar)
    if settings["rescale_betas_zero_snr"] and not subset:
        alpha_bar = _rescaled(alpha_bar)
    timesteps = _timesteps(settings, steps, subset)
    picked = alpha_bar[timesteps]
    return timesteps, _rescaled(picked[::-1])[::-1] if subset else picked


def gap(table: ScheduleTable, timesteps: list[int], alpha_bar: Levels) -> float:
    """Largest difference in sqrt(alpha_bar); infinite where the timesteps are others."""
    if table.timesteps != timesteps:
        return float("inf")
    return float(np.abs(np.sqrt(table.alpha_bar) - np.sqrt(alpha_bar)).max())


def explain(table: ScheduleTable, settings: Mapping[str, Any], subset: bool) -> str | None:
    """The one known wrong setting that gives this table, in words, or None."""
    steps = len(table.timesteps)
    for key, value in RIVALS:
        if settings.get(key) == value or (subset and key == "timestep_spacing"):
            continue
        if gap(table, *expected({**settings, key: value}, steps, subset)) <= TOLERANCE:
            return f"it is the schedule of {key}={value!r}, not {settings.get(key)!r}"
    return None
