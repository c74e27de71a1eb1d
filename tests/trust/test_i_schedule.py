"""Kind I: a schedule agrees with itself or that is said; a policy holds up to its magnitude."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from diffusers import CogVideoXDDIMScheduler
from synthetic_pairs import TABLE, Pairs, Spread

from backends.base import ScheduleTable
from backends.checkpoints.sat.config import ScheduleConfig
from backends.diffusers.solver import own_table
from backends.sat.discretization import own_table as sat_own_table
from harness.cli import main
from harness.judge.known import known_difference
from harness.judge.local import judge_local
from harness.judge.schedules import expected, gap, inconsistent, judge_policy

SETTINGS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "snr_shift_scale": 3.0,
    "steps_offset": 0,
}
DIVIDING, OTHERS = (5, 8, 10, 20, 25, 40, 50, 100), (6, 7, 12, 30, 61)
SUBSET = known_difference(
    "schedule", "pick the timesteps", "rescale all 1000 levels to zero terminal SNR, then pick"
)


def _diffusers(steps: int, **changes: Any) -> ScheduleTable:
    return own_table(CogVideoXDDIMScheduler(**(SETTINGS | changes)), steps)


def _sat(steps: int, shift: float = 3.0) -> ScheduleTable:
    table = sat_own_table(ScheduleConfig(0.00085, 0.012, 1000, shift, False, False), steps)
    return table.exported(table.levels)


@pytest.mark.parametrize("steps", [*DIVIDING, *OTHERS])
def test_an_uneven_schedule_is_told_from_an_even_one(steps: int) -> None:
    assert inconsistent(_sat(steps)) is None
    assert (inconsistent(_diffusers(steps)) is None) == (steps in DIVIDING)


def test_what_is_told_is_what_happens_at_7_and_30_steps() -> None:
    assert "leaves noise of sigma 0.029" in str(inconsistent(_diffusers(7, snr_shift_scale=1.0)))
    told = str(inconsistent(_diffusers(30, snr_shift_scale=1.0)))
    assert told.startswith("10 of 30 steps end at another level")
    assert "1.62% of its sigma" in told


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [*DIVIDING, *OTHERS])
def test_the_registered_difference_ends_at_its_magnitude(steps: int, shift: float) -> None:
    (found,) = judge_policy(_diffusers(steps, snr_shift_scale=shift), _sat(steps, shift), SUBSET)
    assert (found.outcome == "agrees") == (steps in DIVIDING), found.detail
    assert ("does not agree with itself" in found.detail) == (steps not in DIVIDING)


@pytest.mark.parametrize("change", ["shift", "target", "last"])
def test_a_defect_hides_behind_no_policy(change: str) -> None:
    table = _sat(50)
    targets = list(table.alpha_bar_next)
    wrong = {
        "shift": _sat(50, shift=1.0),
        "target": replace(table, alpha_bar_next=[targets[0] * 1.05, *targets[1:]]),
        "last": replace(table, alpha_bar_next=[*targets[:-1], targets[-1] * 0.99]),
    }[change]
    (found,) = judge_policy(_diffusers(50), wrong, SUBSET)
    assert (found.outcome, found.component) == ("differs", "schedule")


@pytest.mark.parametrize("steps", [*DIVIDING, *OTHERS])
def test_targets_are_worked_out_independently(steps: int) -> None:
    wanted = expected(SETTINGS, steps, subset=False)
    table = _diffusers(steps)
    assert gap(table, wanted) < 1e-9
    if steps in DIVIDING:  # elsewhere the last target may be the first level in any case
        assert gap(_diffusers(steps, set_alpha_to_one=False), wanted) > 1e-6
    moved = [value * (1.001 if k == 2 else 1) for k, value in enumerate(table.alpha_bar_next)]
    assert gap(replace(table, alpha_bar_next=moved), wanted) > 1e-6


def test_the_references_own_table_is_looked_at_before_it_is_shared() -> None:
    data = Pairs(0, Spread(0.2, 0.1), Spread(0.08, 0.04)).draw()
    odd = replace(TABLE, alpha_bar_next=[*TABLE.alpha_bar_next[:-1], 0.99])
    chain = {e.check: e for e in judge_local(data)}
    assert "exact.schedule.itself" not in chain
    full = data.reference.full
    facts = {**full.facts, "own": {"schedule": odd.__dict__}}
    side = replace(data.reference, full=replace(full, facts=facts))
    chain = {e.check: e for e in judge_local(replace(data, reference=side))}
    assert chain["exact.schedule.itself"].outcome == "noted"
    assert "leaves noise of sigma 0.100" in chain["exact.schedule.itself"].detail
    assert chain["exact.schedule"].outcome == "differs"  # the candidate's is another


def _run(folder: Path, *settings: str) -> Any:
    main([
        "run", "case=[micro_2b_quick]", "cases.micro_2b_quick.steps=7", "reference=diffusers",
        "reference.name=reference", *settings, f"store={folder}/store", f"results={folder}/results",
    ])  # fmt: skip
    return json.loads((folder / "results" / "latest" / "verdict.json").read_text())


def test_seven_steps_warn_before_and_after(tmp_path: Path) -> None:
    verdict = _run(tmp_path, "candidate=[diffusers]", "candidates.diffusers.attention=math")
    (hazard,) = [h for h in verdict["hazards"] if h["name"].endswith(".steps")]
    assert "7 steps do not divide the 1000 training steps" in hazard["detail"]
    assert hazard["remedy"].endswith("steps=5 or 8")
    (pair,) = verdict["pairs"]
    assert pair["verdict"] == "rounding"
    assert "leaves noise of sigma" in pair["summary"]
