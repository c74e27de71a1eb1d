"""`parity selftest`: what it plants is caught or not, and what cannot act is never counted as caught."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backends.worker import patches
from harness.cli import main
from harness.records import PairResult, RenderRecord
from harness.selftest.planted import FAULTS, PLUGIN, rows

NO_GUIDANCE = ("case=[micro_2b_quick]", "cases.micro_2b_quick.steps=2", "metrics=[psnr]",
               "cases.micro_2b_quick.guidance_scale=1", "judge.rerun=false")  # fmt: skip


def test_every_fault_that_is_listed_is_planted_and_no_other() -> None:
    assert patches.load_plugin(PLUGIN) == sorted(f"selftest_{name}" for name in FAULTS)


def test_what_acts_is_caught_and_what_cannot_act_is_not_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "table.json"
    where = (f"store={tmp_path}/store", f"results={tmp_path}", "--out", str(out))
    only = "frames_brighter|noise_foreign|branches_swapped"
    assert main(["selftest", *NO_GUIDANCE, *where, "--only", only]) == 0
    found = {row["fault"]: (row["status"], row["place"]) for row in json.loads(out.read_text())}
    assert found == {
        "control": ("passed", ""),
        "noise_foreign": ("caught", "noise"),
        "frames_brighter": ("caught", "frames"),
        "branches_swapped": ("not applicable", ""),
    }
    assert "catches 2 of 2 planted faults" in capsys.readouterr().out


def pair(candidate: str, verdict: str) -> PairResult:
    return PairResult.model_construct(
        case="c", candidate=candidate, verdict=verdict, reasons=["because"], findings=[], seeds=[0],
        renders={"reference": {0: "a"}, "candidate": {0: "b"}}, summary="",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "verdict", "bits", "status"),
    [
        ("noise_foreign", "bug", "aa", "not applicable"),
        ("noise_foreign", "bug", "ab", "caught"),
        ("noise_foreign", "rounding", "ab", "missed"),
        ("noise_foreign", "inconclusive", "ab", "missed"),
        ("noise_foreign", "error", "ab", "missed"),
        ("control", "bug", "aa", "not passed"),
        ("control", "inconclusive", "aa", "not passed"),
        ("control", "bit_exact", "aa", "passed"),
    ],
)
def test_whether_a_fault_acts_is_read_from_the_store(
    fault: str, verdict: str, bits: str, status: str
) -> None:
    records = {
        key: RenderRecord.model_construct(status="ok", frames=None, latents_digest=digest)
        for key, digest in zip("ab", bits, strict=True)
    }
    (row,) = rows([pair(fault, verdict)], records.get)
    assert row.status == status


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--only", "nothing_like_it"), "matches no fault; there are denoiser_gain"),
        (("--only", "("), "is no regular expression"),
        (("-m", "seeds=[0],[1]"), "takes no -m"),
        (("reference.patch=mine", "--plugin", "backends.worker.planted"), "patch 'mine'"),
    ],
)
def test_mistakes_are_said(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["selftest", *arguments]) == 2
    assert said in capsys.readouterr().err
