"""Guidance and solver steps that went wrong are told by the setting that is another."""

from typing import Any

import numpy as np
import pytest
from diffusers import CogVideoXDDIMScheduler

from backends.base import Case
from backends.diffusers.solver import own_table
from backends.noise import standard_normal
from backends.stages.questions import nearest
from backends.stages.sketch import sketch_array
from harness.judge.draws import tape_noise
from harness.judge.measured import Answers, LocalData, ProbeSettings, Side
from harness.judge.solver import replay
from harness.judge.steps import SOLVER_LIMIT, judge_guidance, judge_solver
from harness.records import PipelineRecord

STEPS, PROBED, SHAPE = 6, (0, 3, 5), (1, 3, 16, 8, 8)
TABLE = own_table(
    CogVideoXDDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
        prediction_type="v_prediction", rescale_betas_zero_snr=True,
        timestep_spacing="trailing", snr_shift_scale=1.0,
    ),
    STEPS,
)  # fmt: skip
PIPELINE = PipelineRecord(weights={}, dtypes={}, configs={}, policies={})


def _normal(number: int, shape: tuple[int, ...] = SHAPE) -> Any:
    return standard_normal(7, number, shape).astype(np.float32)


def _given() -> dict[str, Any]:
    return {
        f"s0.{k}.{name}": _normal(10 * k + n)
        for k in PROBED
        for n, name in enumerate(("in", "velocity"))
    }


def _data(sampler: Any, scales: dict[str, float], states: Any = None) -> LocalData:
    tensors = _given() | ({} if states is None else {"solve.s0.states": states})
    full = Answers(PIPELINE, tensors, {"s0": {"scales": scales}})
    case = Case(
        name="c", model="micro-2b", prompt="p", negative_prompt="", frames=9, height=64, width=64,
        steps=STEPS, guidance_scale=6.0, dynamic_guidance=False, sampler=sampler, fps=8,
    )  # fmt: skip
    side = Side(full, None)
    return LocalData(case, PROBED, ProbeSettings((0,), (1,)), TABLE, side, side, None)


def _states(sampler: str) -> Any:
    """The sketches that the steps of `sampler` give, each computed from the one before."""
    given = _given()
    inputs = [sketch_array(given["s0.0.in"])]
    velocities = [sketch_array(given[f"s0.{nearest(PROBED, k)}.velocity"]) for k in range(STEPS)]
    for k in range(STEPS):
        known = np.stack(inputs), np.stack(velocities[: k + 1])
        inputs.append(replay(TABLE, sampler, *known, tape_noise(0, SHAPE))[k].state)
    return np.stack(inputs[1:]).astype(np.float32)


@pytest.mark.parametrize(("asked", "used"), [("ddim", "dpm"), ("dpm", "ddim")])
def test_the_other_samplers_steps_are_recognised(asked: str, used: str) -> None:
    data = _data(asked, {}, _states(asked))
    came = Answers(PIPELINE, {"solve.s0.states": _states(used)})
    found = judge_solver(data, data.reference.full, came, "collapse", SOLVER_LIMIT)
    assert (found.outcome, found.component, found.setting) == ("differs", "solver", "sampler")


@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
def test_a_clipped_clean_sample_is_recognised(sampler: str) -> None:
    data = _data(sampler, {}, _states(sampler))
    given, level = _given(), TABLE.alpha_bar[0]
    x, v = (given[f"s0.0.{name}"].astype(np.float64) for name in ("in", "velocity"))
    clean = np.clip(np.sqrt(level) * x - np.sqrt(1 - level) * v, -1, 1)
    clipped = (np.sqrt(level) * x - clean) / np.sqrt(1 - level)
    known = np.stack([sketch_array(x)]), np.stack([sketch_array(clipped)])
    states = _states(sampler)
    states[0] = replay(TABLE, sampler, *known, tape_noise(0, SHAPE))[0].state
    found = judge_solver(
        data, data.reference.full, Answers(PIPELINE, {"solve.s0.states": states}), "collapse", 1e-5
    )
    assert (found.outcome, found.setting) == ("differs", "scheduler.clip_sample")
    assert "clipped to [-1, 1]" in found.detail


def test_steps_of_neither_sampler_name_no_setting() -> None:
    data = _data("ddim", {}, _states("ddim"))
    came = Answers(PIPELINE, {"solve.s0.states": 1.01 * _states("ddim")})
    found = judge_solver(data, data.reference.full, came, "collapse", SOLVER_LIMIT)
    assert (found.outcome, found.setting) == ("differs", None)


@pytest.mark.parametrize(
    ("theirs", "mine", "setting"),
    [
        ((6.0, 6.0, 6.0), (3.5, 3.5, 3.5), "guidance_scale"),
        ((6.0, 6.0, 6.0), (1.4, 3.0, 5.0), "dynamic_guidance"),
        ((1.4, 3.0, 5.0), (6.0, 6.0, 6.0), "dynamic_guidance"),
        ((1.4, 3.0, 5.0), (1.4, 4.0, 5.0), None),  # one step only
    ],
)
def test_a_scale_that_is_another_is_named(
    theirs: tuple[float, ...], mine: tuple[float, ...], setting: str | None
) -> None:
    scales = {str(k): scale for k, scale in zip(PROBED, theirs, strict=True)}
    found = judge_guidance(_data("ddim", scales), _combined(mine), "collapse")
    assert (found.outcome, found.setting) == ("differs", setting)


def test_the_right_scale_agrees_and_another_mixture_names_none() -> None:
    scales = {str(k): 6.0 for k in PROBED}
    assert (
        judge_guidance(_data("ddim", scales), _combined((6.0,) * 3), "collapse").outcome == "agrees"
    )
    odd = judge_guidance(_data("ddim", scales), _combined((3.5,) * 3, extra=0.1), "collapse")
    assert (odd.outcome, odd.setting) == ("differs", None)


def _combined(scales: tuple[float, ...], extra: float = 0.0) -> Answers:
    """Branches, and the velocities that these scales make of them; `extra` adds something else."""
    tensors: dict[str, Any] = {}
    for k, scale in zip(PROBED, scales, strict=True):
        branches = _normal(100 + k, (2, *SHAPE[1:]))
        velocity = branches[:1] + scale * (branches[1:] - branches[:1]) + extra * _normal(200 + k)
        tensors[f"s0.{k}.branches"] = branches
        tensors[f"s0.{k}.velocity"] = velocity.astype(np.float32)
    return Answers(PIPELINE, tensors)
