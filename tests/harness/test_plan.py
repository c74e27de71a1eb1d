"""Which renders a configuration means, and in which order."""

import sys
from itertools import groupby
from pathlib import Path

import pytest

from harness.config.compose import compose_tree
from harness.config.config import build
from harness.config.folders import conf_folders
from harness.render.plan import Plan, make_plan, probe_steps


def plan(*settings: str) -> Plan:
    return make_plan(build(compose_tree(settings, conf_folders(None))))


def test_reference_then_rerun_then_candidates() -> None:
    jobs = plan("candidate=[sat,sat_native]", "seeds=[3,4]").jobs
    assert [job.label for job in jobs] == [
        "diffusers", "diffusers", "diffusers-rerun", "diffusers-rerun",
        "sat", "sat", "sat_native", "sat_native",
    ]  # fmt: skip
    assert [job.seed for job in jobs] == [3, 4] * 4
    assert [job.repeat for job in jobs] == [0, 0, 1, 1, 0, 0, 0, 0]
    assert [job.exports for job in jobs] == [True] * 2 + [False] * 6


def test_only_candidates_share_and_each_by_its_own_match() -> None:
    shares = {job.label: job.share for job in plan("candidate=[sat,sat_native]").jobs}
    assert shares == {
        "diffusers": (),
        "diffusers-rerun": (),
        "sat": ("text", "unconditional", "schedule", "latent_dtype", "image"),
        "sat_native": (),
    }


def test_each_worker_opens_each_model_once() -> None:
    jobs = plan("case=[micro_2b,micro_5b,micro_2b_quick]", "seeds=[0,1]").jobs
    assert len(jobs) == 3 * 2 * 3
    for _, lane in groupby(jobs, key=lambda job: job.label):
        models = [model for model, _ in groupby(lane, key=lambda job: job.case.model)]
        assert models == ["micro-2b", "micro-5b"]


def test_without_a_rerun() -> None:
    assert [job.role for job in plan("judge.rerun=false").jobs] == ["reference", "candidate"]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 8, 50, 1000])
def test_probe_steps_are_in_range_and_hold_both_ends(steps: int) -> None:
    found = probe_steps(steps)
    assert found == sorted(set(found))
    assert found[0] == 0 and found[-1] == steps - 1
    assert len(found) == min(steps, 6)


def test_a_full_trace_keeps_every_step() -> None:
    job = plan("trace.full=true").jobs[0]
    assert job.trace.probe_steps == list(range(job.case.steps))


def test_where_and_how_a_variant_runs_reaches_its_jobs(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    jobs = plan(f"candidates.sat.python={python}", "candidates.sat.threads=3").jobs
    assert {(job.role, job.python, job.threads) for job in jobs} == {
        ("reference", None, None), ("rerun", None, None), ("candidate", str(python), 3),
    }  # fmt: skip
    assert "threads" not in jobs[-1].variant.options


def test_labels_are_distinct_for_distinct_lanes() -> None:
    lanes = {(job.label, job.variant.name, job.repeat) for job in plan("experiment=demo").jobs}
    assert len({label for label, _, _ in lanes}) == len(lanes)
