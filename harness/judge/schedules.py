"""The noise schedule that a pipeline's declared policy and settings must give, worked out independently.

    beta_t      linear in its square root from beta_start to beta_end, 1000 levels, float64
    alpha_bar   prod (1 - beta), then shifted: alpha_bar / (s + (1 - s) alpha_bar)
    rescaled    sqrt(alpha_bar) moved and stretched so that the last level is 0 and the first stays
                (Lin et al. 2024, Algorithm 1)

    target      of a step: SAT's is the level of the next step; Diffusers' is that of t - T // N,
                which is the next step's only where N divides T

Diffusers rescales all levels and then picks; SAT picks and then rescales.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.base import ScheduleTable
from harness.judge.known import KnownDifference
from harness.records import Evidence

Levels = NDArray[np.float64]

TOLERANCE = 2e-6
"""Of sqrt(alpha_bar): SAT keeps it in float32, and rescales in float32."""

RIVALS: tuple[tuple[str, Any], ...] = (
    ("timestep_spacing", "linspace"),
    ("timestep_spacing", "leading"),
    ("set_alpha_to_one", False),
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


NEEDED = frozenset(
    {"beta_start", "beta_end", "num_train_timesteps", "snr_shift_scale", "rescale_betas_zero_snr",
     "timestep_spacing"}
)  # fmt: skip
"""The settings from which `expected` makes a schedule."""


@dataclass(frozen=True)
class Expected:
    """What settings give, noisiest first: timesteps, alpha_bar of each step and of its target (N,)."""

    timesteps: list[int]
    levels: Levels
    targets: Levels

    def last(self, count: int) -> Expected:
        """The last `count` rows: what video-to-video runs."""
        return Expected(self.timesteps[-count:], self.levels[-count:], self.targets[-count:])


def expected(settings: Mapping[str, Any], steps: int, subset: bool) -> Expected:
    """The schedule of `steps` steps. `subset`: pick, then rescale, as SAT does.

    `settings` are the scheduler's under Diffusers' names.
    """
    total = int(settings["num_train_timesteps"])
    roots = np.linspace(settings["beta_start"] ** 0.5, settings["beta_end"] ** 0.5, total)
    alpha_bar = np.cumprod(1 - roots**2)
    shift = float(settings["snr_shift_scale"])
    alpha_bar = alpha_bar / (shift + (1 - shift) * alpha_bar)
    if settings["rescale_betas_zero_snr"] and not subset:
        alpha_bar = _rescaled(alpha_bar)
    timesteps = _timesteps(settings, steps, subset)
    picked = alpha_bar[timesteps]
    if subset:
        levels = _rescaled(picked[::-1])[::-1]
        return Expected(timesteps, levels, np.append(levels[1:], 1.0))
    stride = total // steps
    final = 1.0 if settings.get("set_alpha_to_one", True) else float(alpha_bar[0])
    targets = [alpha_bar[t - stride] if t >= stride else final for t in timesteps]
    return Expected(timesteps, picked, np.array(targets))


def gap(table: ScheduleTable, wanted: Expected) -> float:
    """Largest difference in sqrt(alpha_bar), of levels and targets; infinite where the timesteps are
    others."""
    if table.timesteps != wanted.timesteps:
        return float("inf")
    pairs = (table.alpha_bar, wanted.levels), (table.alpha_bar_next, wanted.targets)
    return max(float(np.abs(np.sqrt(a) - np.sqrt(b)).max()) for a, b in pairs)


def apart(a: ScheduleTable, b: ScheduleTable) -> float:
    """Largest difference in sqrt(alpha_bar) relative to that of `a`, of levels and targets; infinite for
    another number of steps."""
    if len(a.timesteps) != len(b.timesteps):
        return float("inf")
    worst = 0.0
    for mine, other in (a.alpha_bar, b.alpha_bar), (a.alpha_bar_next, b.alpha_bar_next):
        x, y = np.sqrt(mine), np.sqrt(other)
        signal = x > 0
        worst = max([worst, *(np.abs(y - x)[signal] / x[signal])])
    return float(worst)


def judge_policy(
    reference: ScheduleTable, candidate: ScheduleTable, known: KnownDifference | None
) -> list[Evidence]:
    """Evidence against two tables of different policies, each side using its own, that lie further apart
    than the registered difference explains."""
    if known is None or known.magnitude is None or reference == candidate:
        return []
    value, bound = apart(reference, candidate), known.magnitude / len(reference.timesteps)
    odd = inconsistent(reference)
    told = f"; the reference's own schedule does not agree with itself: {odd}" if odd else ""
    return [
        Evidence(
            stage="exact",
            check="exact.schedule.policy",
            component="schedule",
            outcome="agrees" if value <= bound else "differs",
            detail=f"the two sides' own schedules: sqrt(alpha_bar) differs by up to {value:.2%}, and the"
            f" registered difference {known.id} explains {bound:.2%}{told}",
            value=value,
            limit=bound,
            unit="relative",
        )
    ]


def inconsistent(table: ScheduleTable) -> str | None:
    """Where a schedule does not agree with itself, in words, or None.

    The target of each step must be the level of the next, the last target the clean level, and both must
    fall from step to step: whatever else a model is given differs from the noise that is in its latents.
    """
    noise = np.sqrt(1 - np.clip(table.alpha_bar, 0, 1))
    aim = np.sqrt(1 - np.clip(table.alpha_bar_next, 0, 1))
    off = np.abs(aim[:-1] - noise[1:]) / np.maximum(noise[1:], np.finfo(np.float32).eps)
    said: list[str] = []
    if count := int((off > TOLERANCE).sum()):
        said.append(
            f"{count} of {len(noise)} steps end at another level than the next begins with, by up to"
            f" {float(off.max()):.2%} of its sigma"
        )
    if aim[-1] > TOLERANCE:
        said.append(f"the last step leaves noise of sigma {float(aim[-1]):.3f} in the video")
    if (np.diff(noise) > 0).any() or (np.diff(table.timesteps) > 0).any():
        said.append("its levels do not fall from step to step")
    return "; ".join(said) or None


def dividing(total: int, steps: int) -> Sequence[int]:
    """The nearest counts below and above `steps` that divide `total` training steps."""
    counts = [n for n in range(1, total + 1) if total % n == 0]
    below, above = [n for n in counts if n <= steps], [n for n in counts if n >= steps]
    return sorted({*below[-1:], *above[:1]})


def explain(table: ScheduleTable, settings: Mapping[str, Any], subset: bool) -> str | None:
    """The one known wrong setting that gives this table, in words, or None."""
    steps = len(table.timesteps)
    for key, value in RIVALS:
        if settings.get(key) == value or (
            subset and key in ("timestep_spacing", "set_alpha_to_one")
        ):
            continue
        if gap(table, expected({**settings, key: value}, steps, subset)) <= TOLERANCE:
            return f"it is the schedule of {key}={value!r}, not {settings.get(key)!r}"
    return None
