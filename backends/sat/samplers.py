"""SAT's two solvers, one step at a time (`sgm/modules/diffusionmodules/sampling.py`).

A solver is told what it needs through a `StepTable`; its state, if any, lives in the object, and
step 0 resets it. Latents and clean samples are float32 (B, T, C, H, W).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from backends.checkpoints.sat.config import SamplerKind
from backends.errors import InvalidRequest
from backends.sat.discretization import StepTable

Draw = Callable[[Tensor], Tensor]
"""Returns standard normal noise of the shape, dtype and device of its argument."""


class Solver(Protocol):
    """Advances latents by one step."""

    def step(self, latents: Tensor, clean: Tensor, index: int, draw: Draw) -> Tensor:
        """Latents after step `index`, given the guided clean sample at `latents`."""
        ...


class DdimSolver:
    """`VideoDDIMSampler`: deterministic DDIM, exact when the clean sample does not change."""

    def __init__(self, table: StepTable) -> None:
        self._table = table

    def step(self, latents: Tensor, clean: Tensor, index: int, draw: Draw) -> Tensor:
        """a' x0 + sqrt(1 - a'^2) eps from level a to a', with eps from x and x0; draws nothing."""
        level, target = self._table.levels[index], self._table.next_levels[index]
        keep = ((1 - target**2) / (1 - level**2)) ** 0.5
        return keep.view(1) * latents + (target - level * keep).view(1) * clean


class DpmSolver:
    """`VPSDEDPMPP2MSampler`: SDE-DPM-Solver++(2M) in log-SNR, second order after the first step."""

    def __init__(self, table: StepTable) -> None:
        self._table = table
        self._previous: tuple[int, Tensor] | None = None

    def step(self, latents: Tensor, clean: Tensor, index: int, draw: Draw) -> Tensor:
        """One step; draws once in the first, twice in later ones, not at all towards level 1.

        The first of two draws is thrown away, as upstream does: it is part of the random stream.
        Raises `InvalidRequest` if the step before was not the last one taken.
        """
        previous = self._clean_before(index)
        self._previous = index, clean
        level, target = self._table.levels[index], self._table.next_levels[index]
        if target >= 1:
            return clean
        now = _log_snr(level)
        h = _log_snr(target) - now
        keep = ((1 - target**2) / (1 - level**2)) ** 0.5 * (-h).exp()
        gain = (-2 * h).expm1() * target
        spread = (1 - target**2) ** 0.5 * (1 - (-2 * h).exp()) ** 0.5
        noise = draw(latents)
        direction = clean
        if previous is not None:
            noise = draw(latents)
            r = (now - _log_snr(self._table.levels[index - 1])) / h
            direction = (1 + 1 / (2 * r)).view(1) * clean - (1 / (2 * r)).view(1) * previous
        return keep.view(1) * latents - gain.view(1) * direction + spread.view(1) * noise

    def _clean_before(self, index: int) -> Tensor | None:
        if index == 0:
            return None
        if self._previous is None or self._previous[0] != index - 1:
            raise InvalidRequest(
                f"step {index} of the dpm solver needs the clean sample of step {index - 1}, which"
                " was not the last one taken; drive the steps in order from 0"
            )
        return self._previous[1]


def _log_snr(level: Tensor) -> Tensor:
    """Half the log signal-to-noise ratio of sqrt(alpha_bar); -inf at level 0."""
    power = level**2
    return ((power / (1 - power)) ** 0.5).log()


def make_solver(kind: SamplerKind, table: StepTable) -> Solver:
    """The solver `kind` on `table`."""
    return DdimSolver(table) if kind == "ddim" else DpmSolver(table)
