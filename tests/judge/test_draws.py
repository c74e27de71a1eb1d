"""Noise that is not the tape's is told from a wrong formula, on the stack's own solver."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXDPMScheduler
from torch import Tensor

from backends.diffusers.solver import own_table
from backends.noise import draw_slot, standard_normal
from backends.stages.sketch import sketch_array
from harness.judge.draws import foreign_draw, step_noise, wrong_noise
from harness.judge.solver import dpm_noise

STEPS, SEED, SHAPE = 8, 3, (1, 3, 16, 8, 8)
SETTINGS: dict[str, Any] = {
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
    "prediction_type": "v_prediction", "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing", "snr_shift_scale": 1.0,
}  # fmt: skip

OPERANDS = [torch.from_numpy(standard_normal(9, k, SHAPE)) for k in range(3)]
"""Latents, velocity, and the clean sample of the step before."""

INITIAL = torch.from_numpy(standard_normal(SEED, draw_slot("initial", 0, 0), SHAPE))

Drawn = Callable[[int, int], Tensor]


def _draw(step: int, index: int, seed: int = SEED) -> Tensor:
    return torch.from_numpy(standard_normal(seed, draw_slot("step", step, index), SHAPE))


def _stepped(step: int, drawn: Drawn, monkeypatch: pytest.MonkeyPatch, gain: float = 1.0) -> Tensor:
    """What the scheduler makes of fixed latents and velocities at `step`, with these draws."""
    scheduler: Any = CogVideoXDPMScheduler(**SETTINGS)
    scheduler.set_timesteps(STEPS)
    count = iter(range(2))
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_dpm_cogvideox.randn_tensor",
        lambda *_args, **_kwargs: drawn(step, next(count)),
    )
    x, v, old = OPERANDS
    back = scheduler.timesteps[step - 1] if step else None
    previous = old if step else None
    now = scheduler.timesteps[step]
    result, _ = scheduler.step(gain * v, previous, now, back, x, return_dict=False)
    return result


@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize(
    ("name", "drawn", "gain", "foreign"),
    [
        ("another seed's", lambda k, i: _draw(k, i, seed=SEED + 1), 1.0, True),
        ("the next step's", lambda k, i: _draw(k + 1, i), 1.0, True),
        ("the other draw of the step", lambda k, i: _draw(k, 1 - i), 1.0, True),
        ("as DDIM does", lambda k, i: 0.6 * OPERANDS[0] + 0.8 * OPERANDS[1], 1.0, False),
        ("none", lambda k, i: torch.zeros(SHAPE), 1.0, False),
        ("the right one, too weak", lambda k, i: 0.98 * _draw(k, i), 1.0, False),
        ("the right one, turned round", lambda k, i: -_draw(k, i), 1.0, False),
        ("the right one, velocity too large", _draw, 1.05, False),
        ("the right one", _draw, 1.0, False),
    ],
)
def test_a_draw_that_is_not_the_tapes_is_recognised(
    step: int,
    name: str,
    drawn: Drawn,
    gain: float,
    foreign: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = _stepped(step, _draw, monkeypatch)
    came = _stepped(step, drawn, monkeypatch, gain)
    table = own_table(CogVideoXDPMScheduler(**SETTINGS), STEPS)
    a, b, *operands = (sketch_array(t.numpy()) for t in (right, came, *OPERANDS))
    assert foreign_draw(table, step, SEED, SHAPE, a, b, operands) is foreign, name


@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize(
    ("drawn", "gain", "told"),
    [
        (lambda k, i: 0.98 * _draw(k, i), 1.0, "it is 0.98 times the tape's draw"),
        (lambda k, i: -_draw(k, i), 1.0, "it is -1 times the tape's draw"),
        (lambda k, i: _draw(k + 1, 0), 1.0, "it is draw 0 of step {next}"),
        (lambda k, i: INITIAL, 1.0, "it is the draw of the initial latents"),
        (lambda k, i: _draw(k, i, seed=SEED + 1), 1.0, "it is not the tape's draw"),
        (lambda k, i: torch.zeros(SHAPE), 1.0, None),
        (lambda k, i: 0.6 * OPERANDS[0] + 0.8 * OPERANDS[1], 1.0, None),
        (_draw, 1.05, None),
    ],
)
def test_the_noise_of_a_step_is_told_and_a_wrong_formula_is_none(
    step: int, drawn: Drawn, gain: float, told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = _stepped(step, _draw, monkeypatch)
    came = _stepped(step, drawn, monkeypatch, gain)
    table = own_table(CogVideoXDPMScheduler(**SETTINGS), STEPS)
    a, b, x, v, old = (sketch_array(t.numpy()) for t in (right, came, *OPERANDS))
    rows = [x] * step + [x], [old] * step + [v]
    found = wrong_noise(
        table, "dpm", step, SEED, SHAPE, a, b, (np.array(rows[0]), np.array(rows[1]))
    )
    if told is None:
        assert found is None
        return
    assert found is not None and found.told == told.format(next=step + 1)
    assert found.draw == f"step {step}, draw {0 if step == 0 else 1}"


def test_noise_where_none_is_due_and_half_of_it_another() -> None:
    table = own_table(CogVideoXDPMScheduler(**SETTINGS), STEPS)
    due, other = (sketch_array(_draw(3, 1, seed).numpy()) for seed in (SEED, SEED + 1))
    ddim = step_noise(table, "ddim", 3, SEED, SHAPE, 0.01 * other)
    assert ddim is not None and (ddim.draw, ddim.told) == ("step 3", "none is due there")
    factor, _ = dpm_noise(table, 3)
    mixed = step_noise(table, "dpm", 3, SEED, SHAPE, factor * (0.6 * due + 0.8 * other - due))
    assert mixed is not None and "of it is the tape's draw" in mixed.told
