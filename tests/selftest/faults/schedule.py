"""Defects in the noise schedule of Diffusers: config keys that fall back, and tables that slip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from backends.base import Pipeline
from backends.worker.patches import patch
from tests.selftest.faults.planting import become, stack


def _configured(name: str, **changes: Any) -> None:
    """Register patch `name`: the scheduler is built with other settings."""

    def plant(pipeline: Pipeline) -> None:
        pipe = stack(pipeline)
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **changes)

    patch(name)(plant)


_configured("schedule_shift_of_5b", snr_shift_scale=1.0)
_configured("schedule_shift_of_2b", snr_shift_scale=3.0)
_configured("schedule_shift_slightly_off", snr_shift_scale=1.02)
_configured("schedule_linspace", timestep_spacing="linspace")
_configured("schedule_leading", timestep_spacing="leading")
_configured("schedule_without_zero_snr", rescale_betas_zero_snr=False)
_configured("schedule_epsilon", prediction_type="epsilon")
_configured("schedule_sample", prediction_type="sample")
_configured("schedule_linear_betas", beta_schedule="linear")
_configured("schedule_beta_end", beta_end=0.02)
_configured("schedule_last_alpha", set_alpha_to_one=False)


def _table(name: str) -> Callable[[Callable[[torch.Tensor], torch.Tensor]], Any]:
    """Register a change of the scheduler's table of alpha-bar (1000,)."""

    def register(change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        def plant(pipeline: Pipeline) -> None:
            scheduler = stack(pipeline).scheduler
            scheduler.alphas_cumprod = change(scheduler.alphas_cumprod)

        patch(name)(plant)
        return change

    return register


@_table("schedule_table_late")
def table_late(alphas: torch.Tensor) -> torch.Tensor:
    """Every level is that of the timestep before: sigma off by one index."""
    return torch.cat((alphas[:1], alphas[:-1]))


@_table("schedule_table_bf16")
def table_bf16(alphas: torch.Tensor) -> torch.Tensor:
    """The table was cast to bfloat16 with the rest."""
    return alphas.bfloat16().to(alphas.dtype)


@_table("schedule_middle_level")
def middle_level(alphas: torch.Tensor) -> torch.Tensor:
    """The level of t = 499, and no other, is 1 % too high."""
    alphas = alphas.clone()
    alphas[499] *= 1.01
    return alphas


def _timesteps(name: str) -> Callable[[Callable[[torch.Tensor], torch.Tensor]], Any]:
    """Register a change of the picked timesteps (N,)."""

    def register(change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        def plant(pipeline: Pipeline) -> None:
            scheduler = stack(pipeline).scheduler
            native = type(scheduler).set_timesteps

            def set_timesteps(self: Any, *arguments: Any, **keywords: Any) -> None:
                native(self, *arguments, **keywords)
                self.timesteps = change(self.timesteps)

            become(scheduler, set_timesteps=set_timesteps)

        patch(name)(plant)
        return change

    return register


@_timesteps("schedule_one_timestep_off")
def one_timestep_off(timesteps: torch.Tensor) -> torch.Tensor:
    """One timestep in the middle is one too low: floor where others round."""
    timesteps = timesteps.clone()
    timesteps[len(timesteps) // 2] -= 1
    return timesteps


@_timesteps("schedule_timesteps_floored")
def timesteps_floored(timesteps: torch.Tensor) -> torch.Tensor:
    """Trailing timesteps cut off where they should be rounded; differs where N does not divide 1000."""
    count = len(timesteps)
    exact = 1000 - torch.arange(count, dtype=torch.float64) * 1000 / count
    return exact.floor().long().to(timesteps.device) - 1
