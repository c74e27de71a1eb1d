"""A float32 distance near its limit is settled in float64."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.judge.narrow import in_doubt
from harness.records import Evidence


def _probed(tmp_path: Path, patch: str) -> Any:
    main([
        "probe", "case=micro_2b_quick", "reference.name=reference", "candidate=[diffusers]",
        f"candidates.diffusers.patch={patch}", "--plugin", "small_faults",
        f"store={tmp_path}/store", f"results={tmp_path}/results",
    ])  # fmt: skip
    verdict = json.loads((tmp_path / "results" / "latest" / "verdict.json").read_text())
    (pair,) = verdict["pairs"]
    (found,) = [e for e in pair["evidence"] if e["check"] == "collapse.transformer"]
    return pair["verdict"], found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patch", "verdict", "told"),
    [("small_gain", "bug", "it stays"), ("small_noise", "rounding", ": rounding")],
)
def test_float64_tells_another_mathematics_from_more_rounding(
    patch: str, verdict: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    came, evidence = _probed(tmp_path, patch)
    assert came == verdict
    assert "near its limit, in float64" in evidence["detail"]
    assert told in evidence["detail"]


def _evidence(value: float, outcome: Any = "agrees") -> Evidence:
    return Evidence(
        stage="collapse", check="collapse.transformer", component="transformer", outcome=outcome,
        detail="d", value=value, limit=1e-6, step=0, seed=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "outcome", "doubtful"),
    [
        (4e-7, "agrees", False),
        (6e-7, "agrees", True),
        (1.9e-6, "differs", True),
        (9e-4, "differs", True),
        (2e-3, "differs", False),
    ],
)
def test_what_is_near_or_could_be_a_scalar_paths_precision_is_asked_again(
    value: float, outcome: str, doubtful: bool
) -> None:
    assert (in_doubt([_evidence(value, outcome)]) is not None) == doubtful
    assert in_doubt([_evidence(value, "unscored")]) is None
