"""An error twice as large as it should be is called before a second seed is rendered."""

import json
from pathlib import Path

import pytest

from harness.cli import main
from harness.errors import EXIT_DIFFERENT

pytestmark = pytest.mark.slow

MODELS = ("micro_2b", "micro_5b", "micro_5b_i2v", "micro_1_5_5b", "micro_1_5_5b_i2v")


@pytest.mark.parametrize("model", MODELS)
def test_a_doubled_error_is_called_from_the_probes(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    line = [
        "probe", f"case={model}_quick", "candidate=[diffusers]", "reference.name=reference",
        "reference.dtype=bfloat16", "candidates.diffusers.dtype=bfloat16",
        "candidates.diffusers.patch=error_doubled", "--plugin", "small_faults",
        f"store={tmp_path}/store", f"results={tmp_path}/results",
    ]  # fmt: skip
    assert main(line) == EXIT_DIFFERENT
    verdict = json.loads((tmp_path / "results" / "latest" / "verdict.json").read_text())
    (pair,) = verdict["pairs"]
    assert pair["verdict"] == "bug"
    assert pair["seeds"] == []
    assert pair["cost_guided_calls"] <= 300
    (told,) = [e for e in pair["evidence"] if e["outcome"] == "differs"]
    assert told["check"] == "oracle.transformer"
    assert 1.8 < told["value"] < 2.2
