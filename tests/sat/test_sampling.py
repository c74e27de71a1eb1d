"""Schedule, guidance and solvers against Diffusers' schedulers in exact arithmetic."""

from __future__ import annotations

import math
from itertools import count
from typing import Any

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler
from diffusers.schedulers import scheduling_dpm_cogvideox
from small_sat import SCHEDULE

from backends.base import ScheduleTable
from backends.checkpoints.sat.config import GuidanceConfig
from backends.errors import InvalidRequest
from backends.sat.denoiser import Denoiser, guidance_scale
from backends.sat.discretization import (
    StepTable,
    own_table,
    shared_table,
    signal_levels,
    timesteps_of,
)
from backends.sat.samplers import make_solver

SETTINGS = {
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "snr_shift_scale": 3.0,
    "clip_sample": False,
}


def _noise() -> Any:
    numbers = count()

    def draw(shape: Any) -> torch.Tensor:
        generator = torch.Generator().manual_seed(next(numbers))
        return torch.randn(tuple(shape), generator=generator, dtype=torch.float64)

    draw.count = lambda: next(numbers)  # type: ignore[attr-defined]
    return draw


def _velocity(x: torch.Tensor, step: int) -> torch.Tensor:
    return torch.sin(3 * x + step)


def _exact_table(alpha_bar: torch.Tensor, timesteps: list[int]) -> StepTable:
    levels = alpha_bar[torch.tensor(timesteps)].sqrt()
    following = torch.cat((levels[1:], torch.ones(1, dtype=torch.float64)))
    return StepTable(timesteps, levels, following, own=False)


@pytest.mark.parametrize("kind", ["ddim", "dpm"])
@pytest.mark.parametrize("steps", [2, 5, 20])
def test_solvers_equal_diffusers_in_float64(
    kind: Any, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls = CogVideoXDDIMScheduler if kind == "ddim" else CogVideoXDPMScheduler
    scheduler = cls(**SETTINGS)
    scheduler.set_timesteps(steps)
    alpha_bar = scheduler.alphas_cumprod.double()
    scheduler.alphas_cumprod = alpha_bar
    scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    timesteps = [int(t) for t in scheduler.timesteps]
    table = _exact_table(alpha_bar, timesteps)
    solver = make_solver(kind, table)
    start = _noise()((1, 2, 3, 4, 4))
    theirs, ours = _noise(), _noise()
    monkeypatch.setattr(scheduling_dpm_cogvideox, "randn_tensor", lambda shape, **_: theirs(shape))
    x = y = start
    clean_before: torch.Tensor | None = None
    for i, t in enumerate(timesteps):
        if kind == "ddim":
            y = scheduler.step(_velocity(y, i), t, y, return_dict=False)[0]
        else:
            back = timesteps[i - 1] if i else None
            y, clean_before = scheduler.step(
                _velocity(y, i), clean_before, t, back, y, return_dict=False
            )
        level = table.levels[i]
        clean = level * x - (1 - level**2) ** 0.5 * _velocity(x, i)
        x = solver.step(x, clean, i, lambda like: ours(like.shape))
        torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-12)
    # Diffusers draws once in the last step, for noise that it multiplies by zero; SAT does not.
    assert ours.count() == (0 if kind == "ddim" else 2 * steps - 3)
    assert theirs.count() == (0 if kind == "ddim" else 2 * steps - 2)


def test_dpm_refuses_a_step_out_of_order() -> None:
    solver = make_solver("dpm", own_table(SCHEDULE, 4))
    x = torch.zeros(1, 1, 1, 2, 2)
    with pytest.raises(InvalidRequest, match="step 2 of the dpm solver needs"):
        solver.step(x, x, 2, torch.zeros_like)
    solver.step(x, x, 0, torch.zeros_like)
    solver.step(x, x, 1, torch.zeros_like)
    solver.step(x, x, 0, torch.zeros_like)


def test_timesteps_and_levels() -> None:
    assert timesteps_of(50, 1000)[:2] == [999, 979] and timesteps_of(50, 1000)[-1] == 19
    assert timesteps_of(1000, 1000) == list(range(999, -1, -1))
    levels = signal_levels(SCHEDULE, 50)
    assert levels.dtype == torch.float32
    assert float(levels[0]) == 0.0
    assert bool((levels.diff() > 0).all()) and float(levels[-1]) < 1
    for steps in (0, 1, 1001):
        with pytest.raises(InvalidRequest, match=f"{steps} steps"):
            own_table(SCHEDULE, steps)


def test_sat_rescales_the_subset_and_diffusers_all() -> None:
    """The known difference: about 0.1 % of sqrt(alpha_bar) for 2B at 50 steps; 7 of 30 timesteps."""
    scheduler = CogVideoXDDIMScheduler(**SETTINGS)
    for steps, moved in ((50, 0), (30, 7)):
        scheduler.set_timesteps(steps)
        table = own_table(SCHEDULE, steps)
        theirs = scheduler.alphas_cumprod[scheduler.timesteps].sqrt().double()
        differing = sum(
            a != int(b) for a, b in zip(table.timesteps, scheduler.timesteps, strict=True)
        )
        assert differing == moved
        if steps == 50:
            gap = ((table.levels.double() - theirs).abs() / theirs)[1:].max()
            assert 5e-4 < float(gap) < 5e-3
    full = signal_levels(SCHEDULE, 1000).flip(0)
    theirs = scheduler.alphas_cumprod.sqrt()
    torch.testing.assert_close(full.double(), theirs.double(), rtol=1e-5, atol=1e-6)


def test_dynamic_guidance_is_diffusers_formula() -> None:
    for steps in (4, 50):
        config = GuidanceConfig(True, 6.0, 5, steps)
        for t in timesteps_of(steps, 1000):
            expected = 1 + 6.0 * ((1 - math.cos(math.pi * ((steps - t) / steps) ** 5.0)) / 2)
            assert guidance_scale(config, steps, t) == pytest.approx(expected, rel=1e-12)
    assert guidance_scale(GuidanceConfig(False, 6.0, 5, 50), 50, 999) == 6.0


def test_the_denoiser_guides_the_clean_sample() -> None:
    def network(x: torch.Tensor, times: torch.Tensor, text: torch.Tensor, _: Any) -> torch.Tensor:
        assert times.tolist() == [749.0, 749.0]
        return torch.cat((0.1 * x[:1], 0.3 * x[1:])) + text.mean()

    table = own_table(SCHEDULE, 4)
    x = torch.randn(1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    text = torch.zeros(2, 5, 8)
    denoise = Denoiser(network, SCHEDULE)
    out = denoise(x, text, table, 1, GuidanceConfig(False, 6.0, 5, 4))
    level = denoise.level(table, 1)
    # The level comes from the full table: not the solver's own, but close to it.
    assert 0 < abs(float(level - table.levels[1])) < 2e-2
    assert bool((signal_levels(SCHEDULE, 1000) == level).any())
    velocity = out.branches[:1] + 6.0 * (out.branches[1:] - out.branches[:1])
    expected = level * x - (1 - level**2).sqrt() * velocity
    torch.testing.assert_close(out.clean, expected, rtol=1e-5, atol=1e-5)


def test_tables_are_shared_to_the_bit() -> None:
    own = own_table(SCHEDULE, 7)
    denoiser = Denoiser(lambda x, _t, _c, _i: x, SCHEDULE)
    exported = own.exported(denoiser.levels(own))
    again = shared_table(SCHEDULE, SCHEDULE, 7, exported)
    assert again.own and torch.equal(again.levels, own.levels)
    assert exported.alpha_bar_clean != exported.alpha_bar
    foreign = ScheduleTable(
        exported.timesteps, [a * 0.99 for a in exported.alpha_bar], exported.alpha_bar_next
    )
    table = shared_table(SCHEDULE, SCHEDULE, 7, foreign)
    assert not table.own
    assert denoiser.level(table, 3) == table.levels[3]
    with pytest.raises(InvalidRequest, match="7 entries but the case has 8"):
        shared_table(SCHEDULE, SCHEDULE, 8, exported)
    with pytest.raises(InvalidRequest, match="outside"):
        bad = ScheduleTable(exported.timesteps, [math.nan] * 7, [1.0] * 7)
        shared_table(SCHEDULE, SCHEDULE, 7, bad)
