"""From the transformer's velocity to the predicted clean sample, and guidance on the latter."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from backends.checkpoints.sat.config import GuidanceConfig, ScheduleConfig
from backends.sat.discretization import StepTable, denoiser_levels

Network = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Velocity of (latents, timesteps, text, image); `DiffusionTransformer.forward`."""


def guidance_scale(config: GuidanceConfig, steps: int, timestep: int) -> float:
    """The guidance scale at one step.

    Dynamic guidance is `1 + scale (1 - cos(pi (k / num_steps)^exp)) / 2` with k = steps - timestep,
    a count of steps minus a timestep of 0 .. 999: the scale jumps from step to step, by design of
    both code bases (`sgm/modules/diffusionmodules/guiders.py`, `sampling.py`).
    """
    if not config.dynamic:
        return config.scale
    progress = ((steps - timestep) / config.num_steps) ** config.exp
    return 1 + config.scale * (1 - math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Denoised:
    """One guided call. `branches` (2B, T, C, H, W) are the network's outputs, unconditional first.

    `clean` (B, T, C, H, W) float32 is the guided clean sample, which the solver consumes.
    """

    branches: Tensor
    clean: Tensor
    scale: float


class Denoiser:
    """Calls the network on both branches at one step of a table.

    With SAT's own table the level that turns velocity into a clean sample is not the solver's: it
    is rounded to the nearest entry of the full 1000-step table, which was rescaled as a whole
    (`DiscreteDenoiser.possibly_quantize_sigma`). A foreign table is used
    as it is.
    """

    def __init__(self, network: Network, schedule: ScheduleConfig) -> None:
        self._network = network
        self._schedule = schedule

    def level(self, table: StepTable, step: int) -> Tensor:
        """sqrt(alpha_bar), a float32 scalar, with which step `step` turns velocity into a
        sample."""
        if table.own:
            return self.levels(table)[step]
        return (table.levels if table.clean_levels is None else table.clean_levels)[step]

    def levels(self, table: StepTable) -> Tensor:
        """The levels (N,) of SAT's own table as this denoiser rounds them."""
        return denoiser_levels(self._schedule, table.levels)

    def clean(self, velocity: Tensor, latents: Tensor, level: Tensor) -> Tensor:
        """The clean sample a x - sqrt(1 - a^2) v at level a, in float32."""
        return velocity * -((1 - level**2) ** 0.5).view(1) + latents * level.view(1)

    def __call__(
        self,
        latents: Tensor,
        text: Tensor,
        table: StepTable,
        step: int,
        guidance: GuidanceConfig,
        image: Tensor | None = None,
    ) -> Denoised:
        """Denoise `latents` (B, T, C, H, W) float32 with `text` (2B, L, D), unconditional first.

        `image` (1, T, C, H, W) stands beside the latents of both branches.
        """
        timestep = table.timesteps[step]
        doubled = torch.cat([latents, latents])
        times = latents.new_full((doubled.shape[0],), float(timestep))
        branches = self._network(doubled, times, text, image)
        clean = self.clean(branches, doubled, self.level(table, step))
        unconditional, conditional = clean.chunk(2)
        scale = guidance_scale(guidance, len(table), timestep)
        return Denoised(branches, unconditional + scale * (conditional - unconditional), scale)
