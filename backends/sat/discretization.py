"""The zero-terminal-SNR schedule as SAT computes it, and tables that come from elsewhere.

SAT picks the N timesteps first and rescales only those to zero terminal SNR, in float32
(`sgm/modules/diffusionmodules/discretizer.py`); Diffusers rescales all 1000 and then picks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from backends.base import ScheduleTable
from backends.checkpoints.sat.config import ScheduleConfig
from backends.errors import InvalidRequest


def _alpha_bar(config: ScheduleConfig) -> torch.Tensor:
    """Cumulative signal power (num_timesteps,) in float64, shifted unless that comes last.

    beta_t is linear in its square root; the shift by s divides the SNR by s:
    alpha_bar / (s + (1 - s) alpha_bar).
    """
    start, shift = config.linear_start, config.shift_scale
    if config.keep_start and not config.post_shift:
        start = start / (shift + (1 - shift) * start)
    roots = torch.linspace(
        start**0.5, config.linear_end**0.5, config.num_timesteps, dtype=torch.float64
    )
    # numpy's cumprod multiplies one by one, as upstream; torch's may associate differently.
    alpha_bar = torch.from_numpy(np.cumprod(1.0 - (roots**2).numpy()))
    if config.post_shift:
        return alpha_bar
    return alpha_bar / (shift + (1 - shift) * alpha_bar)


def timesteps_of(steps: int, num_timesteps: int) -> list[int]:
    """The timesteps of `steps` solver steps, first (noisiest) step first; all when they are
    equal."""
    if not 2 <= steps <= num_timesteps:
        raise InvalidRequest(
            f"{steps} steps: SAT's schedule needs 2 to {num_timesteps} (its rescaling to zero terminal"
            " SNR divides 0 by 0 at one step); choose another number"
        )
    if steps == num_timesteps:
        return list(range(num_timesteps - 1, -1, -1))
    spaced = np.linspace(num_timesteps - 1, 0, steps, endpoint=False)
    return [int(t) for t in spaced.astype(int)]


def signal_levels(config: ScheduleConfig, steps: int) -> Tensor:
    """sqrt(alpha_bar) (steps,) in float32, noisiest first, rescaled so that the first is exactly
    0."""
    picked = timesteps_of(steps, config.num_timesteps)
    levels = _alpha_bar(config)[torch.tensor(picked)].float().sqrt()
    terminal, last = levels[0].clone(), levels[-1].clone()
    levels = (levels - terminal) * (last / (last - terminal))
    if config.post_shift:
        power = levels**2
        levels = (power / (config.shift_scale + (1 - config.shift_scale) * power)) ** 0.5
    return levels


@dataclass(frozen=True)
class StepTable:
    """What a solver uses, step by step: timestep, and sqrt(alpha_bar) before and after the step.

    `levels` and `next_levels` are float32 (N,). `own` tells SAT's table from a foreign one, whose
    `clean_levels` are what velocity is turned into a clean sample with; SAT's denoiser has its own.
    """

    timesteps: list[int]
    levels: Tensor
    next_levels: Tensor
    own: bool
    clean_levels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.timesteps)

    def to(self, device: torch.device) -> StepTable:
        """The same table on another device."""
        clean = None if self.clean_levels is None else self.clean_levels.to(device)
        return replace(
            self,
            levels=self.levels.to(device),
            next_levels=self.next_levels.to(device),
            clean_levels=clean,
        )

    def exported(self, clean_levels: Tensor) -> ScheduleTable:
        """The table as plain numbers, with the denoiser's levels (N,).

        A float32 level squared is exact in float64.
        """
        return ScheduleTable(
            timesteps=list(self.timesteps),
            alpha_bar=(self.levels.double() ** 2).tolist(),
            alpha_bar_next=(self.next_levels.double() ** 2).tolist(),
            alpha_bar_clean=(clean_levels.double() ** 2).tolist(),
        )


def own_table(config: ScheduleConfig, steps: int) -> StepTable:
    """SAT's table for `steps` steps; the last step goes to the clean video (level 1)."""
    levels = signal_levels(config, steps)
    following = torch.cat((levels[1:], torch.ones(1)))
    return StepTable(timesteps_of(steps, config.num_timesteps), levels, following, own=True)


def denoiser_levels(config: ScheduleConfig, levels: Tensor) -> Tensor:
    """`levels` (N,) rounded to the nearest of the denoiser's full table, which is rescaled as a whole.

    Source: `sgm/modules/diffusionmodules/denoiser.py`, `possibly_quantize_sigma`.
    """
    full = signal_levels(config, config.num_timesteps).flip(0).to(levels.device)
    return full[(levels[:, None] - full).abs().argmin(dim=1)]


def shared_table(
    config: ScheduleConfig, denoiser: ScheduleConfig, steps: int, table: ScheduleTable
) -> StepTable:
    """A table that a reference handed over; SAT's own if it is equal to that to the bit.

    Raises `InvalidRequest` if it does not fit `steps` or is no table.
    """
    clean = table.alpha_bar if table.alpha_bar_clean is None else table.alpha_bar_clean
    lengths = {len(table.timesteps), len(table.alpha_bar), len(table.alpha_bar_next), len(clean)}
    if lengths != {steps}:
        raise InvalidRequest(
            f"the shared schedule has {' or '.join(map(str, sorted(lengths)))} entries but the case"
            f" has {steps} steps;"
            " export the inputs again for this case"
        )
    values = [*table.alpha_bar, *table.alpha_bar_next, *clean]
    if not all(math.isfinite(v) and 0.0 <= v <= 1.0 for v in values):
        raise InvalidRequest("the shared schedule has alpha_bar outside [0, 1]; export it again")
    if steps > 1:
        own = own_table(config, steps)
        if own.exported(denoiser_levels(denoiser, own.levels)) == table:
            return own
    levels, following, clean_levels = (
        torch.tensor(column, dtype=torch.float64).sqrt().float()
        for column in (table.alpha_bar, table.alpha_bar_next, clean)
    )
    return StepTable(list(table.timesteps), levels, following, False, clean_levels)
