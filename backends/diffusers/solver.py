"""The CogVideoX schedulers under control: tape, schedule and latent dtype imposed, steps observed.

Diffusers' pipeline calls `scheduler.set_timesteps` and `scheduler.step`. Both are wrapped on the
instance for the duration of a run, so that the native loop and the hand-driven stages go through the
same code and the arithmetic stays Diffusers' own.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from backends.base import ScheduleTable
from backends.errors import InvalidRequest
from backends.noise import NoiseTape, expected_step_draws

StepSeen = Callable[[int, Tensor, Tensor, Tensor], None]
"""Told (step, latents in, guided velocity, latents out) after every solver step."""


def scheduler_for(loaded: Any, sampler: str) -> Any:
    """The scheduler for `sampler`: `loaded` itself if it is of that class, else made from its config.

    Using the loaded instance keeps whatever a patch did to it.
    """
    name = {"ddim": "CogVideoXDDIMScheduler", "dpm": "CogVideoXDPMScheduler"}[sampler]
    wanted = getattr(import_module("diffusers"), name)
    return loaded if isinstance(loaded, wanted) else wanted.from_config(loaded.config)


def own_table(scheduler: Any, steps: int) -> ScheduleTable:
    """The table that `scheduler` itself uses for `steps` steps.

    The target of a step is t - 1000 // steps, and the final alpha below zero, as in
    `CogVideoXDDIMScheduler.step` and `CogVideoXDPMScheduler.step`.
    """
    scheduler.set_timesteps(steps)
    timesteps = [int(t) for t in scheduler.timesteps]
    stride = scheduler.config.num_train_timesteps // steps
    alphas, final = scheduler.alphas_cumprod, float(scheduler.final_alpha_cumprod)
    return ScheduleTable(
        timesteps=timesteps,
        alpha_bar=[float(alphas[t]) for t in timesteps],
        alpha_bar_next=[float(alphas[t - stride]) if t >= stride else final for t in timesteps],
    )


def _last(table: ScheduleTable, count: int) -> ScheduleTable:
    """The last `count` rows."""
    skipped = len(table.timesteps) - count
    return ScheduleTable(
        table.timesteps[skipped:], table.alpha_bar[skipped:], table.alpha_bar_next[skipped:]
    )


class Solver:
    """One run's scheduler, set to `steps` steps of which the last `count` are run.

    `table` None leaves the scheduler its own. `latent_dtype` is the dtype that latents are rounded
    to after every step; with `imposed` it differs from what the pipeline carries between steps, so
    the solver keeps its latents itself and the pipeline sees them cast.
    """

    def __init__(
        self,
        scheduler: Any,
        steps: int,
        count: int,
        table: ScheduleTable | None,
        latent_dtype: torch.dtype,
        imposed: bool,
    ) -> None:
        if table is not None and len(table.timesteps) != count:
            raise InvalidRequest(
                f"the shared schedule has {len(table.timesteps)} steps, the case {count};"
                " export the inputs again for this case"
            )
        self.scheduler = scheduler
        self.latent_dtype = latent_dtype
        self._steps = steps
        self._count = count
        self._stride = scheduler.config.num_train_timesteps // steps
        self._imposed_table = table
        self.table = table or _last(own_table(scheduler, steps), count)
        self._imposed = imposed
        self._kept: Tensor | None = None
        self._index = 0

    def begin(self, latents: Tensor) -> None:
        """Start a run from `latents`, already in `latent_dtype`."""
        self._kept = latents if self._imposed else None

    def latents_to_decode(self, carried: Tensor) -> Tensor:
        """What the decoder is given: the solver's own latents where it keeps them."""
        return carried if self._kept is None else self._kept

    @contextmanager
    def attached(self, tape: NoiseTape, seen: StepSeen, first: int = 0) -> Generator[None]:
        """Wrap the scheduler; step number `first` is the next one."""
        scheduler = self.scheduler
        native_step, native_set = scheduler.step, scheduler.set_timesteps
        signature = inspect.signature(native_step)
        self._index = first

        # The pipeline reads the signature of `step` to decide whether to pass `eta`.
        @functools.wraps(native_step)
        def step(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            return self._step(native_step, bound, tape, seen)

        @functools.wraps(native_set)
        def set_timesteps(steps: int, device: Any = None, **kwargs: Any) -> None:
            native_set(steps, device=device, **kwargs)
            if self._imposed_table is not None:
                # A pipeline that runs the last steps only cuts the first ones off.
                given = self._imposed_table.timesteps
                skipped = given[:1] * (self._steps - self._count)
                scheduler.timesteps = torch.tensor([*skipped, *given], device=device)

        def add_noise(clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
            if self._imposed_table is None:
                return native_noise(clean, noise, timesteps)
            level = torch.tensor(self.table.alpha_bar[:1], dtype=torch.float64)
            with patch.object(scheduler, "alphas_cumprod", level):
                return native_noise(clean, noise, torch.zeros_like(timesteps))

        native_noise = scheduler.add_noise
        saved = scheduler.alphas_cumprod, scheduler.final_alpha_cumprod
        native_set(self._steps)  # another run may have left its own number of steps
        self._level_the_start()
        with (
            patch.object(scheduler, "step", step),
            patch.object(scheduler, "set_timesteps", set_timesteps),
            patch.object(scheduler, "add_noise", add_noise),
        ):
            try:
                yield
            finally:
                scheduler.alphas_cumprod, scheduler.final_alpha_cumprod = saved

    def _level_the_start(self) -> None:
        """Let a clip be noised to the level of the imposed table's first step."""
        if self._imposed_table is None:
            return
        alphas = self.scheduler.alphas_cumprod.clone()
        alphas[self._imposed_table.timesteps[0]] = self._imposed_table.alpha_bar[0]
        self.scheduler.alphas_cumprod = alphas

    def _step(
        self, native: Any, bound: inspect.BoundArguments, tape: NoiseTape, seen: StepSeen
    ) -> Any:
        index, arguments = self._index, bound.arguments
        if self._kept is not None:
            arguments["sample"] = self._kept
        if self._imposed_table is not None:
            self._impose(arguments, index)
        sample: Tensor = arguments["sample"]
        velocity: Tensor = arguments["model_output"]
        arguments["model_output"] = self._for_clean_level(velocity, sample, index)
        sampler = "dpm" if "timestep_back" in bound.signature.parameters else "ddim"
        # A last step that does not end on clean latents is drawn like any other; this happens when
        # the number of steps does not divide 1000.
        last = self._count if self._final(index) else self._count + 1
        fewest, most = expected_step_draws(sampler, index, last)
        with tape.stage("step", index, fewest, most, sample.shape):
            result, *rest = native(*bound.args, **bound.kwargs)
        result = result.to(self.latent_dtype)
        if self._imposed:
            self._kept = result
        self._index += 1
        seen(index, sample, velocity, result)
        return (result, *rest)

    def _for_clean_level(self, velocity: Tensor, sample: Tensor, index: int) -> Tensor:
        """The velocity from which the solver, at alpha a, finds the clean sample of alpha c.

        w with sqrt(a) x - sqrt(1 - a) w = sqrt(c) x - sqrt(1 - c) v; v itself where c equals a, as in
        every table of Diffusers' own.
        """
        a = self.table.alpha_bar[index]
        c = a if self.table.alpha_bar_clean is None else self.table.alpha_bar_clean[index]
        if c == a:
            return velocity
        shift = math.sqrt(a) - math.sqrt(c)
        return (shift * sample.float() + math.sqrt(1 - c) * velocity) / math.sqrt(1 - a)

    def _final(self, index: int) -> bool:
        """Whether a step goes to clean latents, which the solvers do in first order."""
        return self.table.timesteps[index] < self._stride or self.table.alpha_bar_next[index] >= 1

    def _impose(self, arguments: dict[str, Any], index: int) -> None:
        """Let the solver find this step's row of the table wherever it looks.

        It looks up t, t - stride (or the final alpha below zero) and the step before; these become
        positions in a table of this step alone, because one entry for all steps could not hold an
        `alpha_bar_next` that differs from the next step's `alpha_bar`.
        """
        table, stride = self.table, self._stride
        here = 0 if self._final(index) else stride
        alphas = torch.empty(2 * stride + 1, dtype=torch.float64)
        alphas[0] = table.alpha_bar_next[index]
        alphas[here] = table.alpha_bar[index]
        self.scheduler.final_alpha_cumprod = torch.tensor(
            table.alpha_bar_next[index], dtype=torch.float64
        )
        arguments["timestep"] = here
        if arguments.get("timestep_back") is not None:
            alphas[2 * stride] = table.alpha_bar[index - 1]
            arguments["timestep_back"] = 2 * stride
        self.scheduler.alphas_cumprod = alphas
