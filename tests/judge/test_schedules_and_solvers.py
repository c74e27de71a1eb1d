"""The independent schedule and solvers against the stacks' own."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler

from backends.base import ScheduleTable
from backends.checkpoints.sat.config import ScheduleConfig
from backends.diffusers.solver import own_table
from backends.sat.discretization import own_table as sat_table
from harness.judge.schedules import TOLERANCE, expected, explain, gap
from harness.judge.solver import replay

SETTINGS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "snr_shift_scale": 3.0,
    "clip_sample": False,
    "steps_offset": 0,
}


@pytest.mark.parametrize("spacing", ["trailing", "linspace", "leading"])
@pytest.mark.parametrize("steps", [8, 20, 50])
def test_diffusers_tables_are_what_their_settings_say(spacing: str, steps: int) -> None:
    settings = SETTINGS | {"timestep_spacing": spacing}
    table = own_table(CogVideoXDDIMScheduler(**settings), steps)
    assert gap(table, expected(settings, steps, subset=False)) < 1e-9


@pytest.mark.parametrize("steps", [8, 30, 50])
def test_sat_tables_are_what_their_settings_say(steps: int) -> None:
    table = sat_table(ScheduleConfig(0.00085, 0.012, 1000, 3.0, False, False), steps)
    exported = table.exported(table.levels)
    assert gap(exported, expected(SETTINGS, steps, subset=True)) < TOLERANCE


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"timestep_spacing": "linspace"}, "timestep_spacing='linspace'"),
        ({"rescale_betas_zero_snr": False}, "rescale_betas_zero_snr=False"),
        ({"snr_shift_scale": 1.0}, "snr_shift_scale=1.0"),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any], said: str) -> None:
    table = own_table(CogVideoXDDIMScheduler(**(SETTINGS | wrong)), 50)
    assert gap(table, expected(SETTINGS, 50, subset=False)) > TOLERANCE
    assert said in str(explain(table, SETTINGS, subset=False))


@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
def test_replayed_steps_are_the_schedulers_own(sampler: str) -> None:
    steps, size = 10, 512
    kind = CogVideoXDDIMScheduler if sampler == "ddim" else CogVideoXDPMScheduler
    scheduler = kind(**SETTINGS)
    table = own_table(scheduler, steps)
    inputs, velocities, results, draws = _drive(scheduler, sampler, table, size)
    found = replay(table, sampler, inputs, velocities, lambda step, index: draws[step][index])
    for mine, own in zip(found, results, strict=True):
        assert np.linalg.norm(mine.state - own) <= 1e-5 * np.linalg.norm(own)
        assert mine.error(own) <= 1e-6
        assert mine.terms >= np.linalg.norm(mine.state)


def _drive(scheduler: Any, sampler: str, table: ScheduleTable, size: int) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)
    x, clean = torch.randn(size, generator=generator), None
    inputs, velocities, results, draws = [], [], [], []
    for step, t in enumerate(table.timesteps):
        velocity = torch.randn(size, generator=generator)
        noise = torch.Generator().manual_seed(100 + step)
        drawn = [torch.randn(size, generator=noise).double().numpy() for _ in range(2)]
        fresh = torch.Generator().manual_seed(100 + step)
        inputs.append(x.numpy())
        velocities.append(velocity.numpy())
        if sampler == "ddim":
            x = scheduler.step(velocity, t, x, return_dict=False)[0]
        else:
            back = table.timesteps[step - 1] if step else None
            x, clean = scheduler.step(velocity, clean, t, back, x, generator=fresh)
        results.append(x.double().numpy())
        draws.append(drawn)
    return np.array(inputs), np.array(velocities), results, draws
