"""Kind J, in whole runs: the noise of a step, one call of a run, skipped blocks, a setting, the text.

Each is a bug; what is held here is what the summary names first, and what it advises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from harness.config.compose import compose_tree
from harness.config.config import build
from harness.config.folders import conf_folders
from harness.judge.arguments import Called
from harness.judge.skipped import judge_skipped
from harness.records import Finding, PairResult
from harness.verdict import session
from harness.workers.connect import in_process

DDIM = (
    "ddim_own_noise", "first_call_late_cast", "fourth_call_stale", "cache_takes_all",
    "residual_repeated", "native_text_shifted", "end_in_the_call",
)  # fmt: skip
DPM = ("step_noise_is_initial", "step_noise_mixed", "solver_result_bf16")


class _Silent:
    def start(self, total: int) -> None: ...
    def render_started(self, label: str) -> None: ...
    def render_finished(self, label: str, status: str, seconds: float) -> None: ...


def _judged(folder: Any, case: str, patches: Sequence[str]) -> dict[str, PairResult]:
    settings = [
        f"case=[{case}]", f"cases.{case}.steps=4", "candidate=[]", "match=native", "metrics=[psnr]",
        "reference.threads=1", "judge.rerun=false", "judge.shares=false", "judge.probe_seeds=[0,1]",
        "judge.calibration_seeds=[1000001]", f"store={folder}/store", f"results={folder}/results",
    ]  # fmt: skip
    for name in patches:
        settings += [f"+backend@candidates.{name}=diffusers", f"candidates.{name}.patch={name}"]
    config = build(compose_tree(settings, conf_folders(None)))
    plugin = ("tests.trust.place_faults",)
    _, result = session.run(config, plugin, (), _Silent(), connect=in_process)
    assert result is not None
    return {pair.candidate: pair for pair in result.pairs}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PairResult]:
    folder = tmp_path_factory.mktemp("places")
    return _judged(folder / "ddim", "micro_2b_quick", DDIM) | _judged(
        folder / "dpm", "micro_5b_quick", DPM
    )


def _named(pair: PairResult) -> Finding:
    """What the summary names, which is one thing."""
    assert pair.verdict == "bug"
    (found,) = [f for f in pair.findings if f.kind == "component"]
    assert f"[{found.component}" in pair.summary and f"Next: {found.remedy}." in pair.summary
    return found


@pytest.mark.parametrize(
    ("fault", "key", "told"),
    [
        ("step_noise_is_initial", "step 1, draw 1", "it is the draw of the initial latents"),
        ("step_noise_mixed", "step 0, draw 0", "of it is the tape's draw"),
        ("ddim_own_noise", "step 2", "none is due there"),
    ],
)
def test_noise_that_a_step_adds_is_named_with_its_step_and_draw(
    fault: str, key: str, told: str, pairs: dict[str, PairResult]
) -> None:
    found = _named(pairs[fault])
    assert (found.component, found.name) == ("noise", key)
    assert told in found.detail
    assert found.remedy is not None
    assert "noise that a step adds" in found.remedy and "`scheduler.step`" in found.remedy
    assert "initial latents" not in found.remedy


def test_a_rounded_result_stays_the_solvers(pairs: dict[str, PairResult]) -> None:
    assert _named(pairs["solver_result_bf16"]).component == "solver"


@pytest.mark.parametrize(
    ("fault", "module", "advice"),
    [
        ("first_call_late_cast", "transformer.proj_out", "different at the first call"),
        ("fourth_call_stale", "transformer.transformer_blocks.3.ff", "at that call of a run"),
    ],
)
def test_a_module_that_is_wrong_in_one_call_of_a_run_is_named(
    fault: str, module: str, advice: str, pairs: dict[str, PairResult]
) -> None:
    found = _named(pairs[fault])
    assert found.component == "transformer" and (found.block or "").startswith(module)
    assert found.remedy is not None and advice in found.remedy


@pytest.mark.parametrize("fault", ["cache_takes_all", "residual_repeated"])
def test_skipped_blocks_are_counted_and_named(fault: str, pairs: dict[str, PairResult]) -> None:
    skipped = {"cache_takes_all": 15, "residual_repeated": 12}[fault]
    found = _named(pairs[fault])
    assert (found.component, found.name) == ("transformer", "skipped blocks")
    assert f"skips {skipped} of 24 block calls" in found.detail
    assert "the reference's skips none of 24" in found.detail
    assert found.remedy is not None and "cache" in found.remedy
    assert f"skips {skipped} of 24 block calls" in pairs[fault].summary


def test_a_setting_that_only_the_call_has_otherwise_is_named(pairs: dict[str, PairResult]) -> None:
    found = _named(pairs["end_in_the_call"])
    assert (found.component, found.name) == ("schedule", "scheduler.set_alpha_to_one")
    assert found.remedy == "set scheduler.set_alpha_to_one as the reference has it"


def test_text_that_only_the_call_has_otherwise_is_named(pairs: dict[str, PairResult]) -> None:
    found = _named(pairs["native_text_shifted"])
    assert (found.component, found.name) == ("text", "encoder_hidden_states")
    assert "its run was to use" in found.detail


def _calls(*worked: int) -> list[Called]:
    return [Called("transformer", str(k), {}, {}, (n, 6)) for k, n in enumerate(worked)]


def test_blocks_that_both_sides_skip_alike_or_nobody_counted_are_not_noted() -> None:
    cached = _calls(6, 1, 1, 6)
    assert not judge_skipped("native.candidate", "the run", cached, _calls(6, 1, 1, 6))
    assert not judge_skipped("native.candidate", "the run", [], cached)
    (other,) = judge_skipped("native.candidate", "the run", cached, _calls(6, 1, 6, 6))
    assert other.outcome == "noted" and other.step == 1
    assert other.detail == (
        "the run skips 5 of 24 block calls (step 1); the reference's skips 10 of 24 block calls"
        " (2 steps from 1 on)"
    )
