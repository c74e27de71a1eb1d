"""Hazards of a run's settings: each is found, says why and what to do, and clean runs have none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from audit_models import Model

from harness.audit.hazards import hazards
from harness.cli import main
from harness.config.compose import compose_tree
from harness.config.config import RunConfig, build
from harness.config.folders import choices, conf_folders
from harness.errors import ParityError
from harness.records import Finding
from harness.verdict import session

FIVE_B = "THUDM/CogVideoX-5b"


def configure(*overrides: str) -> RunConfig:
    return build(compose_tree(overrides, conf_folders(None)))


def found(*overrides: str) -> list[Finding]:
    return hazards(configure(*overrides))


def test_the_shipped_cases_and_the_demo_have_none() -> None:
    assert found("experiment=demo") == []
    for case in ("micro_2b", "micro_5b", "micro_2b_quick"):
        assert found(f"case=[{case}]") == []
    both = ("reference.dtype=bfloat16", "candidates.sat.dtype=bfloat16", "candidate=[sat]")
    assert found("case=[cogvideox_5b]", *both) == []


@pytest.mark.parametrize(
    ("overrides", "name", "reason", "remedy"),
    [
        (
            ["case=[micro_2b]", "cases.micro_2b.dynamic_guidance=true"],
            "cases.micro_2b.dynamic_guidance", "ddim", "sampler=dpm",
        ),
        (
            ["case=[cogvideox_5b]", "cases.cogvideox_5b.frames=81"],
            "cases.cogvideox_5b.frames", "trained for 49", "frames=49",
        ),
        (
            ["case=[micro_5b]", "cases.micro_5b.frames=33"],
            "cases.micro_5b.frames", "more than the 17", "frames=17",
        ),
        (
            ["case=[micro_5b]", "cases.micro_5b.width=96"],
            "cases.micro_5b.height", "made for 64x64", "width=64",
        ),
        (
            ["case=[cogvideox_5b]", "reference.dtype=float16"],
            "reference.dtype", "recommend bfloat16", "run in bfloat16",
        ),
        (
            ["case=[cogvideox_2b]", "reference.dtype=bfloat16"],
            "reference.dtype", "recommend float16", "reference.dtype=float16",
        ),
        (
            ["case=[micro_5b]", "reference.dtype=float16"],
            "reference.dtype", "transformer_blocks.2.attn1.to_v.weight", "bfloat16",
        ),
        (
            ["case=[micro_2b]", "candidate=[diffusers]", "candidates.diffusers.vae_tiling=true",
             "reference.name=whole"],
            "vae_tiling", "False and True", "alike on both sides",
        ),
        (
            ["case=[micro_2b]", "candidate=[sat]", "candidates.sat.device=cuda"],
            "device", "auto and cuda", "one device",
        ),
        (
            ["case=[micro_2b]", "candidate=[sat_native]", "candidates.sat_native.dtype=float16"],
            "candidates.sat_native.dtype", "casts T5 to float16 as a whole", "match.text=shared",
        ),
    ],
)  # fmt: skip
def test_a_hazard_says_why_and_what_to_do(
    overrides: list[str], name: str, reason: str, remedy: str
) -> None:
    matching = [h for h in found(*overrides) if h.name == name and reason in h.detail]
    assert len(matching) == 1, found(*overrides)
    assert remedy in (matching[0].remedy or "")


def test_several_settings_at_once_are_named() -> None:
    """What hid the cause in the incident `local_vs_space`."""
    hidden = found(
        "case=[micro_5b]",
        "candidate=[diffusers_model_offload]",
        "candidates.diffusers_model_offload.dtype=bfloat16",
        "candidates.diffusers_model_offload.attention=math",
    )
    (hazard,) = [h for h in hidden if "differ at once" in h.detail]
    assert hazard.name == "attention,backend,dtype,placement"
    assert "3 settings" in hazard.detail, "backend and placement are one setting"
    assert "dtype: float32 and bfloat16" in hazard.detail
    assert found("case=[micro_5b]", "candidate=[diffusers_model_offload]") == []


def test_a_dtype_that_is_written_out_is_no_other_setting() -> None:
    """float16's incident keeps VAE and text in float32, as the reference has them by default."""
    for candidate in ("float16", "bfloat16"):
        said = [h.detail for h in found("experiment=incident/fp16_black") if candidate in h.detail]
        assert not any("differ at once" in detail for detail in said)


def test_a_model_that_is_not_as_its_family_was_trained(broken: Model) -> None:
    broken.configure("vae/config.json", scaling_factor=1.15258426)
    broken.configure("scheduler/scheduler_config.json", timestep_spacing=None, snr_shift_scale=3.0)
    broken.configure("scheduler/scheduler_config.json", prediction_type="epsilon")
    case = ["case=[micro_5b]", f"cases.micro_5b.model={broken.folder}", "cases.micro_5b.frames=9"]
    said = {hazard.name: hazard for hazard in found(*case)}
    assert {"vae.scaling_factor", "scheduler.timestep_spacing", "scheduler.snr_shift_scale",
            "scheduler.prediction_type"} <= set(said)  # fmt: skip
    assert "leading" in said["scheduler.timestep_spacing"].detail
    assert "that of CogVideoX-2B" in said["vae.scaling_factor"].detail


def test_the_text_length_of_a_full_size_model(broken: Model) -> None:
    broken.configure(
        "transformer/config.json", num_attention_heads=48, attention_head_dim=64,
        max_text_seq_length=77,
    )  # fmt: skip
    said = found("case=[micro_5b]", f"cases.micro_5b.model={broken.folder}")
    (hazard,) = [h for h in said if h.name == "transformer.max_text_seq_length"]
    assert "77 tokens" in hazard.detail and "226" in hazard.detail


def test_the_command_lists_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--config", "experiment=demo"]) == 0
    assert "0 hazards" in capsys.readouterr().out
    target = tmp_path / "hazards.json"
    settings = ["case=[cogvideox_5b]", "reference.dtype=float16", "candidate=[diffusers]",
                "reference.name=half", "candidates.diffusers.dtype=float16"]  # fmt: skip
    assert main(["audit", "--config", *settings, "--json", str(target)]) == 1
    assert "black" in capsys.readouterr().out
    assert [h["name"] for h in json.loads(target.read_text())] == [
        "reference.dtype", "candidates.diffusers.dtype"
    ]  # fmt: skip
    assert main(["audit", "one"]) == 2
    assert "two checkpoints" in capsys.readouterr().err


def test_no_shipped_case_with_a_shipped_candidate_has_one() -> None:
    """Every case against every candidate, and each stack as the reference."""
    folders = conf_folders(None)
    cases, candidates = (",".join(choices(group, folders)) for group in ("case", "candidate"))
    for reference in choices("reference", folders):
        config = configure(
            f"case=[{cases}]", f"candidate=[{candidates}]", f"reference={reference}",
            "reference.name=the_reference",
        )  # fmt: skip
        assert len(config.cases) * len(config.candidates) > 100
        assert hazards(config) == []


def test_a_candidates_own_case_and_checkpoint_are_looked_at(broken: Model) -> None:
    """What one side alone changes misleads no less than what both do."""
    broken.configure("vae/config.json", scaling_factor=1.15258426)
    said = {
        hazard.name: hazard.detail
        for hazard in found(
            "case=[micro_5b]", "candidate=[diffusers]", "reference.name=whole",
            "+candidates.diffusers.case={sampler: ddim}",
            f"candidates.diffusers.checkpoint={broken.folder}",
        )
    }  # fmt: skip
    assert "dynamic guidance with the ddim sampler" in said[
        "candidates.diffusers.case.dynamic_guidance"
    ]  # fmt: skip
    assert "candidates.diffusers.checkpoint" in said["vae.scaling_factor"]


def test_they_are_printed_before_anything_is_rendered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed: list[str] = []

    def instead_of_rendering(*_: object, **__: object) -> None:
        printed.append(capsys.readouterr().err)
        raise ParityError("far enough")

    monkeypatch.setattr(session, "run", instead_of_rendering)
    assert main(["run", "case=[micro_2b]", "cases.micro_2b.dynamic_guidance=true"]) == 2
    assert "parity: warning: case micro_2b: dynamic guidance with the ddim sampler" in printed[0]
    assert "Remedy: set cases.micro_2b.dynamic_guidance=false" in printed[0]
