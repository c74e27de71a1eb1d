"""Stand-in for CogVideo's samplers: their methods and argument names around this project's solvers."""

from typing import Any

import torch

from backends.checkpoints.sat.config import ScheduleConfig
from backends.sat.discretization import StepTable, own_table
from backends.sat.samplers import make_solver
from sgm.util import instantiate_from_config


class VideoDDIMSampler:
    kind: Any = "ddim"

    def __init__(
        self, discretization_config: Any, num_steps: int, guider_config: Any, **_: Any
    ) -> None:
        self.schedule = ScheduleConfig(**discretization_config["params"])
        self.num_steps = num_steps
        self.guider = instantiate_from_config(guider_config)

    def prepare_sampling_loop(self, x: Any, cond: Any, uc: Any = None) -> Any:
        table = own_table(self.schedule, self.num_steps)
        levels = torch.cat([table.levels, torch.ones(1)])
        timesteps = torch.tensor([-1, *table.timesteps[::-1]])
        return x, x.new_ones(1), levels, len(levels), cond, uc, timesteps

    def denoise(
        self, x: Any, denoiser: Any, alpha_cumprod_sqrt: Any, cond: Any, uc: Any,
        timestep: Any = None, idx: Any = None, scale: Any = None, scale_emb: Any = None,
    ) -> Any:  # fmt: skip
        both = {name: torch.cat((uc[name], cond[name])) for name in cond}
        level = torch.cat([alpha_cumprod_sqrt] * 2)
        clean = denoiser(torch.cat([x, x]), level, both, idx=x.new_ones(2) * timestep)
        unconditional, conditional = clean.chunk(2)
        place = [] if type(self.guider).__name__ == "VanillaCFG" else [self.num_steps - timestep]
        factor = self.guider.scale_schedule(None, *(int(index) for index in place))
        return unconditional + factor * (conditional - unconditional)

    def sampler_step(
        self, alpha_cumprod_sqrt: Any, next_alpha_cumprod_sqrt: Any, denoiser: Any, x: Any,
        cond: Any, uc: Any = None, idx: Any = None, timestep: Any = None, scale: Any = None,
        scale_emb: Any = None,
    ) -> Any:  # fmt: skip
        clean = self.denoise(x, denoiser, alpha_cumprod_sqrt, cond, uc, timestep, idx)
        return self.solve(x, clean, [alpha_cumprod_sqrt, next_alpha_cumprod_sqrt], None)

    def solve(self, x: Any, clean: Any, levels: list[Any], old: Any) -> Any:
        own = torch.cat(levels[:-1])
        table = StepTable([0] * len(own), own, torch.cat(levels[1:]), own=True)
        solver: Any = make_solver(self.kind, table)
        if old is not None:
            solver._previous = 0, old
        return solver.step(x, clean, len(own) - 1, torch.randn_like)

    def __call__(self, denoiser: Any, x: Any, cond: Any, uc: Any = None, **further: Any) -> Any:
        x, ones, levels, count, cond, uc, timesteps = self.prepare_sampling_loop(x, cond, uc)
        for i in range(count - 1):
            x = self.sampler_step(
                ones * levels[i], ones * levels[i + 1], denoiser, x, cond, uc,
                idx=self.num_steps - i, timestep=timesteps[-(i + 1)], **further,
            )  # fmt: skip
        return x


class VPSDEDPMPP2MSampler(VideoDDIMSampler):
    kind = "dpm"

    def sampler_step(  # type: ignore[override]
        self, old_denoised: Any, previous_alpha_cumprod_sqrt: Any, alpha_cumprod_sqrt: Any,
        next_alpha_cumprod_sqrt: Any, denoiser: Any, x: Any, cond: Any, uc: Any = None,
        idx: Any = None, timestep: Any = None, scale: Any = None, scale_emb: Any = None,
    ) -> Any:  # fmt: skip
        clean = self.denoise(x, denoiser, alpha_cumprod_sqrt, cond, uc, timestep, idx)
        if idx == 1:
            return clean, clean
        levels = [alpha_cumprod_sqrt, next_alpha_cumprod_sqrt]
        if old_denoised is not None:
            levels = [previous_alpha_cumprod_sqrt, *levels]
        return self.solve(x, clean, levels, old_denoised), clean

    def __call__(self, denoiser: Any, x: Any, cond: Any, uc: Any = None, **further: Any) -> Any:
        x, ones, levels, count, cond, uc, timesteps = self.prepare_sampling_loop(x, cond, uc)
        old = None
        for i in range(count - 1):
            x, old = self.sampler_step(
                old, None if i == 0 else ones * levels[i - 1], ones * levels[i],
                ones * levels[i + 1], denoiser, x, cond, uc=uc, idx=self.num_steps - i,
                timestep=timesteps[-(i + 1)], **further,
            )  # fmt: skip
        return x
