"""Incidents that users reported: reproduced, and diagnosed without a hint."""

import json
from pathlib import Path

import pytest

from harness.cli import main
from harness.errors import EXIT_DIFFERENT

pytestmark = pytest.mark.slow


def _places(folder: Path) -> list[str]:
    return [f"store={folder}/store", f"results={folder}/results", "metrics=[psnr]"]


def test_fp16_black(tmp_path: Path) -> None:
    """Black video in float16: the block and the step of the overflow; bfloat16 comes out clean."""
    assert main(["run", "experiment=incident/fp16_black", *_places(tmp_path)]) == EXIT_DIFFERENT
    verdict = json.loads((tmp_path / "results" / "latest" / "verdict.json").read_text())
    half, brain = verdict["pairs"]
    assert (half["candidate"], half["verdict"]) == ("float16", "broken")
    cause = half["findings"][0]
    assert cause["component"] == "transformer"
    assert cause["block"].startswith("transformer.transformer_blocks.2.attn1")
    assert "the dtype cannot hold its values" in cause["detail"] and "step 0" in cause["detail"]
    assert (brain["candidate"], brain["verdict"]) == ("bfloat16", "rounding")


def test_local_vs_space(tmp_path: Path) -> None:
    """Three settings differ; two carry the gap, their shares sum to it, offload has none."""
    settings = ["bisect", "experiment=incident/local_vs_space", *_places(tmp_path)]
    assert main(settings) == EXIT_DIFFERENT
    path = tmp_path / "results" / "bisect" / "micro_5b_quick-local.json"
    found = json.loads(path.read_text())
    assert set(found["culprits"]) == {"case.sampler", "case.dynamic_guidance"}
    shares = {row["key"]: row["share"] for row in found["rows"]}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["options.placement"] == shares["backend"] == 0.0
    assert found["neighbour_agrees"] and found["probes"] <= 40
