"""The imposed schedule: the same arithmetic on another table, whatever its timesteps."""

from dataclasses import asdict, replace

import pytest
import torch
from contract_driving import native
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler
from small_renders import CASE, Full, opened

from backends.base import Inputs, ScheduleTable
from backends.diffusers.solver import Solver, own_table
from backends.errors import InvalidRequest, TapeError
from backends.noise import NoiseTape, standard_normal

SETTINGS = {
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "snr_shift_scale": 1.0,
}
SCHEDULERS = [CogVideoXDDIMScheduler, CogVideoXDPMScheduler]


def _run(kind: type, steps: int, table: ScheduleTable | None) -> torch.Tensor:
    """A whole trajectory with made-up velocities, through the attached scheduler."""
    scheduler = kind(**SETTINGS)
    tape, shape = NoiseTape(3), (1, 2, 3, 4, 4)
    solver = Solver(scheduler, steps, steps, table, torch.float32, imposed=False)
    from backends.stages.intercept import draws_from

    latents = torch.from_numpy(standard_normal(0, 0, shape))
    clean = None
    with draws_from(tape), solver.attached(tape, lambda *_: None):
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps
        for i, t in enumerate(timesteps):
            velocity = torch.from_numpy(standard_normal(1, i, shape))
            if kind is CogVideoXDDIMScheduler:
                latents = scheduler.step(velocity, t, latents, return_dict=False)[0]
            else:
                back = timesteps[i - 1] if i else None
                latents, clean = scheduler.step(velocity, clean, t, back, latents)
    return latents


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 3, 7, 30, 50])
def test_a_schedulers_own_table_handed_back_is_the_identity(kind: type, steps: int) -> None:
    table = own_table(kind(**SETTINGS), steps)
    assert len(table.timesteps) == steps
    assert torch.equal(_run(kind, steps, None), _run(kind, steps, table))


@pytest.mark.parametrize("steps", [3, 7, 30])
def test_the_table_holds_what_the_solver_looks_up(steps: int) -> None:
    scheduler = CogVideoXDDIMScheduler(**SETTINGS)
    table = own_table(scheduler, steps)
    for t, here, target in zip(table.timesteps, table.alpha_bar, table.alpha_bar_next, strict=True):
        assert here == scheduler.alphas_cumprod[t]
        before = t - 1000 // steps
        assert target == (scheduler.alphas_cumprod[before] if before >= 0 else 1.0)
    assert table.alpha_bar[0] == 0


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_table_that_ends_clean_off_the_grid_gives_finite_latents(kind: type) -> None:
    """SAT's last step goes to clean latents from a timestep that is not below the stride."""
    table = own_table(kind(**SETTINGS), 30)
    table = ScheduleTable(
        timesteps=[t + 1 if t < 999 else t for t in table.timesteps],
        alpha_bar=table.alpha_bar,
        alpha_bar_next=[*table.alpha_bar[1:], 1.0],
    )
    assert table.timesteps[-1] >= 1000 // 30
    latents = _run(kind, 30, table)
    assert torch.isfinite(latents).all()


def test_every_row_of_an_imposed_table_is_used(full: Full) -> None:
    inputs = Inputs(schedule=full.pipeline.prepare(CASE, Inputs()).schedule)
    assert inputs.schedule is not None
    for column in ("alpha_bar", "alpha_bar_next"):
        for row in range(CASE.steps):
            values = list(getattr(inputs.schedule, column))
            values[row] = abs(values[row] - 1e-3)
            changed = replace(inputs.schedule, **{column: values})
            frames = native(full.pipeline, CASE, Inputs(schedule=changed)).steps[-1].result
            assert not torch.equal(frames, full.render.steps[-1].result), (column, row)


def test_float32_latents_are_kept_beside_a_bfloat16_transformer() -> None:
    pipeline = opened(dtype="bfloat16")
    driven = native(pipeline, CASE, Inputs(latent_dtype="float32"))
    assert all(step.result.dtype == torch.float32 for step in driven.steps)
    # Unrounded: a float32 value that bfloat16 holds by chance is rare.
    last = driven.steps[-1].result
    assert (last.bfloat16().float() != last).float().mean() > 0.9
    pipeline.close()


def test_a_draw_too_few_is_an_error(full: Full, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.schedulers import scheduling_dpm_cogvideox as module

    monkeypatch.setattr(module, "randn_tensor", lambda shape, **_: torch.zeros(shape))
    with pytest.raises(TapeError, match="skips a draw"):
        native(full.pipeline, CASE)


def test_solver_steps_out_of_order_are_refused(full: Full) -> None:
    run, tape = full.pipeline.prepare(CASE, Inputs()), NoiseTape(0)
    latents = run.initial_latents(tape)
    with pytest.raises(InvalidRequest, match="in order"):
        run.step(latents, run.predict(latents, 1), 1, tape)
    with pytest.raises(InvalidRequest, match="steps 0 to 2"):
        run.predict(latents, 3)


def test_two_runs_of_one_pipeline_do_not_disturb_each_other(full: Full) -> None:
    run, tape = full.pipeline.prepare(CASE, Inputs()), NoiseTape(0)
    latents = run.initial_latents(tape)
    prediction = run.predict(latents, 0)
    other = full.pipeline.prepare(replace(CASE, steps=5), Inputs())
    assert asdict(other.schedule) != asdict(run.schedule)
    assert torch.equal(run.step(latents, prediction, 0, tape), full.render.steps[0].result)
