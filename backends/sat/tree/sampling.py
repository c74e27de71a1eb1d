"""CogVideo's sampler, step by step, and what its steps are told.

A sampler object of CogVideo's is built from the YAML with the case's solver, steps and guidance.
Its methods `denoise` and `sampler_step` do all the computing, in the native run and by hand alike;
they are wrapped for the time of a call, to be observed, given noise, and given a shared schedule.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from omegaconf import OmegaConf
from torch import Tensor

from backends.base import Case, Prediction, ScheduleTable
from backends.errors import InvalidRequest
from backends.sat.discretization import StepTable, denoiser_levels, shared_table
from backends.sat.tree.engine import TreeEngine

_MODULE = "sgm.modules.diffusionmodules"
_SAMPLERS = {"ddim": "VideoDDIMSampler", "dpm": "VPSDEDPMPP2MSampler"}


@dataclass(frozen=True)
class Call:
    """What `engine.sample` hands to its sampler: its denoiser, the noise, both conditionings."""

    denoiser: Callable[..., Tensor]
    noise: Tensor
    conditional: dict[str, Tensor]
    unconditional: dict[str, Tensor]
    further: Mapping[str, Any]


def build_sampler(engine: TreeEngine, case: Case) -> Any:
    """CogVideo's sampler for `case`: what the YAML says, with the case in place of its settings."""
    settings: Any = OmegaConf.to_container(engine.args.model_config.sampler_config, resolve=True)
    settings["target"] = f"{_MODULE}.sampling.{_SAMPLERS[case.sampler]}"
    kind, values = "VanillaCFG", {"scale": case.guidance_scale}
    if case.dynamic_guidance:
        kind = "DynamicCFG"
        # A user who changes the number of steps changes it for the guider, too.
        values |= {"exp": engine.config.sampler.guidance.exp, "num_steps": case.steps}
    settings["params"] |= {
        "num_steps": case.steps,
        "verbose": False,
        "guider_config": {"target": f"{_MODULE}.guiders.{kind}", "params": values},
    }
    return engine.code.util.instantiate_from_config(settings)


def own_table(engine: TreeEngine, sampler: Any) -> tuple[StepTable, ScheduleTable]:
    """The sampler's own table, and the same as plain numbers with the denoiser's levels."""
    start = torch.zeros(1, device=engine.device)
    _, _, levels, _, _, _, timesteps = sampler.prepare_sampling_loop(start, {})
    table = StepTable(
        timesteps=[int(t) for t in timesteps[1:].flip(0)],
        levels=levels[:-1],
        next_levels=levels[1:],
        own=True,
    )
    rounded = [engine.native.denoiser.possibly_quantize_sigma(level) for level in table.levels]
    return table, table.exported(torch.stack(rounded))


class Sampling:
    """One sampler on one table. Latents are float32 (B, T, C, H, W)."""

    def __init__(self, engine: TreeEngine, case: Case, shared: ScheduleTable | None) -> None:
        self._native = engine.native
        self.sampler = build_sampler(engine, case)
        own, exported = own_table(engine, self.sampler)
        self.table, self.schedule = own, exported
        if shared is not None and shared != exported:
            self.table, self.schedule = _foreign(engine, case.steps, shared), shared
        self._names = inspect.signature(self.sampler.sampler_step).parameters
        self._denoise, self._step = self.sampler.denoise, self.sampler.sampler_step
        self._previous: tuple[int, Tensor] | None = None

    def predict(self, call: Call, latents: Tensor, index: int) -> Prediction:
        """CogVideo's `denoise` at step `index`; `native` is the guided clean sample."""
        known = self._arguments(call, latents, index, None)
        wanted = inspect.signature(self._denoise).parameters
        return self._observed(index, **{k: v for k, v in known.items() if k in wanted})

    def step(self, call: Call, latents: Tensor, clean: Tensor, index: int) -> Tensor:
        """CogVideo's `sampler_step` with `clean` in place of what its `denoise` would give."""
        arguments = self._arguments(call, latents, index, self._clean_before(index))
        wanted = {name: value for name, value in arguments.items() if name in self._names}
        with patch.object(self.sampler, "denoise", _always(clean)):
            result: Any = self._step(**wanted)
        self._previous = index, clean
        return result[0] if isinstance(result, tuple) else result

    @contextmanager
    def observed(
        self,
        call: Call | None,
        due: Callable[[int], AbstractContextManager[None]],
        seen: Callable[[int, Tensor, Prediction, Tensor], Tensor],
    ) -> Generator[None]:
        """Within the block CogVideo's own loop over this sampler is observed.

        `call` is needed on a shared table only. `due(i)` is entered around step `i`.
        `seen(i, latents, prediction, result)` returns what the loop goes on with.
        """
        index, predictions = 0, list[Prediction]()

        def denoise(*args: Any, **kwargs: Any) -> Any:
            predictions.append(self._observed(index, *args, **kwargs))
            return predictions[-1].native

        def sampler_step(*args: Any, **kwargs: Any) -> Any:
            nonlocal index
            bound = inspect.signature(self._step).bind(*args, **kwargs).arguments
            if call is not None:
                forced = self._arguments(call, bound["x"], index, bound.get("old_denoised"))
                bound = {name: forced[name] for name in bound}
            with due(index):
                result: Any = self._step(**bound)
            # The dpm sampler's steps return (latents, clean sample), the ddim sampler's latents.
            pair = isinstance(result, tuple)
            latents = result[0] if pair else result
            latents = seen(index, bound["x"], predictions[-1], latents)
            index += 1
            return (latents, result[1]) if pair else latents

        with (
            patch.object(self.sampler, "denoise", denoise),
            patch.object(self.sampler, "sampler_step", sampler_step),
        ):
            yield

    def clean(self, velocity: Tensor, latents: Tensor, index: int) -> Tensor:
        """The clean sample of a velocity: CogVideo's denoiser around a network that returns it."""
        level = self.table.levels[index] * latents.new_ones(1)
        times = latents.new_full((1,), float(self.table.timesteps[index]))
        with self._level(index):
            return self._native.denoiser(_always(velocity), latents, level, {}, idx=times)

    def _arguments(
        self, call: Call, latents: Tensor, index: int, old: Tensor | None
    ) -> dict[str, Any]:
        """Everything that `denoise` and `sampler_step` of either sampler take at one step."""
        table, ones = self.table, latents.new_ones([latents.shape[0]])
        # Step 1 of a countdown is the last one, which returns the clean sample as it is.
        countdown = len(table) - index
        if not table.own:
            countdown = 1 if float(table.next_levels[index]) >= 1 else countdown + 1
        return {
            "old_denoised": old,
            "previous_alpha_cumprod_sqrt": None if index == 0 else ones * table.levels[index - 1],
            "alpha_cumprod_sqrt": ones * table.levels[index],
            "next_alpha_cumprod_sqrt": ones * table.next_levels[index],
            "denoiser": call.denoiser,
            "x": latents,
            "cond": call.conditional,
            "uc": call.unconditional,
            "idx": countdown,
            "timestep": torch.tensor(table.timesteps[index]),
            **call.further,
        }

    def _observed(self, index: int, *args: Any, **kwargs: Any) -> Prediction:
        outputs: list[Tensor] = []

        def keep(_: Any, __: Any, output: Tensor) -> None:
            outputs.append(output)

        handle = self._native.model.register_forward_hook(keep)
        try:
            with self._level(index):
                clean = self._denoise(*args, **kwargs)
        finally:
            handle.remove()
        scale = self._scale(self.table.timesteps[index])
        unconditional, conditional = outputs[0].float().chunk(2)
        return Prediction(
            velocity=unconditional + scale * (conditional - unconditional),
            branches=outputs[0],
            guidance_scale=scale,
            native=clean,
        )

    def _scale(self, timestep: int) -> float:
        schedule = self.sampler.guider.scale_schedule
        takes_index = type(self.sampler.guider).__name__ == "DynamicCFG"
        return float(schedule(None, len(self.table) - timestep) if takes_index else schedule(None))

    @contextmanager
    def _level(self, index: int) -> Generator[None]:
        """On a foreign table the denoiser uses that table's level and rounds to none of its own."""
        if self.table.own:
            yield
            return
        levels = self.table.clean_levels
        level = (self.table.levels if levels is None else levels)[index]

        def unrounded(sigma: Tensor) -> Tensor:
            return torch.ones_like(sigma) * level

        with patch.object(self._native.denoiser, "possibly_quantize_sigma", unrounded):
            yield

    def _clean_before(self, index: int) -> Tensor | None:
        if index == 0 or "old_denoised" not in self._names:
            return None
        if self._previous is None or self._previous[0] != index - 1:
            raise InvalidRequest(
                f"step {index} of the dpm solver needs the clean sample of step {index - 1}, which"
                " was not the last one taken; drive the steps in order from 0"
            )
        return self._previous[1]


def _always(value: Tensor) -> Callable[..., Tensor]:
    def give(*_: Any, **__: Any) -> Tensor:
        return value

    return give


def _foreign(engine: TreeEngine, steps: int, shared: ScheduleTable) -> StepTable:
    """A checked table of another stack, which is used as it is."""
    config = engine.config
    table = shared_table(config.sampler.schedule, config.denoiser_schedule, steps, shared)
    table = table.to(engine.device)
    clean = table.clean_levels
    if clean is None:
        clean = denoiser_levels(config.denoiser_schedule, table.levels)
    return replace(table, own=False, clean_levels=clean)
