"""The commands that the page gives to repeat a run, or one pair of it."""

import shlex

import pytest
from synthetic_runs import Synthetic

from harness.config.compose import compose_tree
from harness.config.config import build
from harness.config.folders import conf_folders
from harness.records import RunResult
from harness.report.reproduce import command_of_pair, command_of_run


def ran(run: Synthetic, *settings: str) -> RunResult:
    """A run of these settings with a pair that says it is (micro_2b, sat)."""
    config = build(compose_tree(settings, conf_folders(None)))
    run.pair("bug", "sat", case="micro_2b")
    run.save(exit_code=1)
    result = RunResult.model_validate_json((run.folder / "verdict.json").read_text())
    changed = {"command": ["parity", "run", *settings], "config": config.model_dump(mode="json")}
    return result.model_copy(update=changed)


@pytest.mark.parametrize(
    "settings",
    [
        ("experiment=demo",),
        ("case=[micro_2b,micro_5b]", "candidate=[sat,sat_native]"),
        ("case=[micro_2b]", "+backend@candidates.port=diffusers", "candidates.port.dtype=bfloat16"),
    ],
)
def test_one_pair_alone_is_that_pair_and_no_other(
    run: Synthetic, settings: tuple[str, ...]
) -> None:
    result = ran(run, *settings)
    line = command_of_pair(result, result.pairs[0])
    assert line is not None
    again = build(compose_tree(shlex.split(line)[2:], conf_folders(None)))
    assert [case.name for case in again.cases] == ["micro_2b"]
    assert [candidate.name for candidate in again.candidates] == ["sat"]
    assert shlex.split(command_of_run(result))[2:] == list(settings)


def test_a_run_of_one_pair_needs_no_second_command(run: Synthetic) -> None:
    result = ran(run, "case=[micro_2b]", "candidate=[sat]")
    assert command_of_pair(result, result.pairs[0]) is None


def test_what_settings_cannot_say_is_not_said(run: Synthetic) -> None:
    result = ran(run, "experiment=demo")
    for command in (["pytest", "tests"], ["parity", "run", "experiment=demo", "--multirun"]):
        other = result.model_copy(update={"command": command})
        assert command_of_pair(other, other.pairs[0]) is None
