"""`parity probe`: the local verdict, and what it cannot see."""

import json
from pathlib import Path

import pytest

from harness.cli import main
from harness.errors import EXIT_DIFFERENT, EXIT_EQUIVALENT, EXIT_UNDECIDED

pytestmark = pytest.mark.slow


def _probe(folder: Path, *settings: str):
    places = (f"store={folder}/store", f"results={folder}/results")
    code = main(["probe", "case=micro_2b_quick", "reference.name=reference", *settings, *places])
    verdict = json.loads((folder / "results" / "latest" / "verdict.json").read_text())
    (pair,) = verdict["pairs"]
    assert not (folder / "store" / "renders").exists()
    return code, pair


def test_two_stacks_agree_without_a_render(tmp_path: Path) -> None:
    code, pair = _probe(tmp_path, "candidate=[sat]")
    assert (code, pair["verdict"]) == (EXIT_EQUIVALENT, "rounding")
    assert 0 < pair["cost_guided_calls"] <= 300


def test_a_wrong_stage_is_a_bug_and_has_a_place(tmp_path: Path) -> None:
    fault = "candidates.diffusers.patch=attention_scale_in_block_3"
    plugin = ("--plugin", "tests.selftest.faults.attention")
    code, pair = _probe(tmp_path, "candidate=[diffusers]", fault, *plugin)
    assert (code, pair["verdict"]) == (EXIT_DIFFERENT, "bug")
    (cause,) = [f for f in pair["findings"] if f["kind"] == "component"]
    assert cause["component"] == "transformer"
    assert "blocks.3" in cause["block"]


def test_an_option_that_is_off_while_stages_are_asked_is_no_pass(tmp_path: Path) -> None:
    """The fault acts only while the cache is on, so no stage shows it."""
    options = ("cache=pab", "patch=fastercache13_inside_the_option")
    settings = [f"candidates.diffusers.{option}" for option in options]
    plugin = ("--plugin", "tests.reports.reported_loop")
    code, pair = _probe(tmp_path, "candidate=[diffusers]", *settings, *plugin)
    assert (code, pair["verdict"]) == (EXIT_UNDECIDED, "inconclusive")
    assert "act across steps were not compared" in pair["reasons"][0]
