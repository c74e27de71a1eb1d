"""One step with learning rate 0 through each stack's own save and load, healthy and sabotaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tiny_models import rewrite, through_bf16_and_back, weight_files

from backends.errors import InvalidRequest
from backends.roundtrip.check import RoundTrip, check
from backends.roundtrip.drive_diffusers import DiffusersDriver
from backends.roundtrip.drive_sat import SatDriver
from harness.cli import main

Stack = Literal["diffusers", "sat"]
DRIVERS: dict[str, Any] = {"diffusers": DiffusersDriver, "sat": SatDriver}
STAGES = ["load", "step", "save", "reload"]


def driven(model: Path, stack: Stack, mode: str, **more: Any) -> dict[str, Any]:
    return check(RoundTrip(model=str(model), backend=stack, mode=mode, device="cpu", **more))


def changed_stages(result: dict[str, Any]) -> list[str]:
    return [name for name in STAGES if result["stages"].get(name)]


@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("stack", ["diffusers", "sat"])
def test_nothing_changes(diffusers_model: Path, stack: Stack, mode: str, tmp_path: Path) -> None:
    result = driven(diffusers_model, stack, mode, keep=str(tmp_path))
    assert result["outcome"] == "unchanged", result
    assert list(result["stages"]) == STAGES
    assert changed_stages(result) == []
    assert result["function"]["bit_equal"] is True
    step = result["step"]
    # All but the key's bias, which a softmax does not see, learn something.
    assert step["with_gradient"] > 0.8 * step["parameters"]
    names = {path.name for path in (tmp_path / "after").rglob("*") if path.is_file()}
    if stack == "sat":
        assert {"latest", "model_config.json", "mp_rank_00_model_states.pt"} <= names
        assert ("training_config.yaml" in names) == (mode == "lora")
    elif mode == "lora":
        assert names == {"pytorch_lora_weights.safetensors"}


def test_image_to_video_with_learned_positions() -> None:
    """The incident's model: its picture goes in, and its learned table is saved and loaded."""
    result = check(RoundTrip("micro-5b-i2v", "diffusers", device="cpu"))
    assert result["outcome"] == "unchanged", result
    assert result["function"]["bit_equal"] is True
    assert result["before"] == "micro-5b-i2v"


@pytest.mark.parametrize(("stack", "factor"), [("diffusers", 1.0), ("sat", 0.25)])
def test_a_lora_saved_without_its_metadata_has_another_factor(
    diffusers_model: Path, stack: Stack, factor: float
) -> None:
    """As CogVideo's trainer saves it, and as SAT's users pass checkpoints on without the YAML."""
    result = driven(diffusers_model, stack, "lora", metadata=False)
    assert result["outcome"] == "changed"
    assert [c["detail"] for c in result["weights"]] == [f"0.5 became {factor}"]
    assert changed_stages(result) == []
    assert result["function"]["rel_l2"] > 1e-3


@pytest.mark.parametrize("stack", ["diffusers", "sat"])
def test_a_save_that_rounds_is_found_in_the_save(
    diffusers_model: Path, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = DRIVERS[stack].save

    def save(self: Any, pipeline: Any, folder: Path) -> None:
        honest(self, pipeline, folder)
        for file in weight_files(folder):
            rewrite(file, file, through_bf16_and_back)

    monkeypatch.setattr(DRIVERS[stack], "save", save)
    result = driven(diffusers_model, stack, "full")
    assert result["outcome"] == "changed"
    assert changed_stages(result) == ["save"]
    assert result["stages"]["save"][0]["kind"] == "rounded"
    assert result["function"]["bit_equal"] is False


@pytest.mark.parametrize("stack", ["diffusers", "sat"])
def test_an_optimiser_that_moves_is_found_in_the_step(
    diffusers_model: Path, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def moving(parameters: Any, lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=lr + 1e-2)

    monkeypatch.setattr("torch.optim.AdamW", moving)
    result = driven(diffusers_model, stack, "lora")
    assert result["outcome"] == "changed"
    assert changed_stages(result) == ["step"]
    assert {c["kind"] for c in result["weights"]} == {"values"}


def test_sat_leaves_nothing_to_what_was_there_before(
    diffusers_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tensor that was not saved cannot hide behind the weights that a model starts from."""
    honest = SatDriver.save

    def save(self: Any, pipeline: Any, folder: Path) -> None:
        honest(self, pipeline, folder)
        for file in weight_files(folder):
            rewrite(file, file, lambda t: {n: v for n, v in t.items() if "time_embed.0" not in n})

    monkeypatch.setattr(SatDriver, "save", save)
    result = driven(diffusers_model, "sat", "full")
    assert result["outcome"] == "changed"
    assert {c["kind"] for c in result["weights"]} == {"missing"}
    assert "Missing keys" in result["function"]["why"]


def test_training_in_half_precision_changes_the_weights_on_loading(diffusers_model: Path) -> None:
    result = driven(diffusers_model, "diffusers", "full", dtype="bfloat16")
    assert result["outcome"] == "changed"
    assert changed_stages(result) == ["load"]


def test_mistakes(diffusers_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="needs a model, a backend"):
        check(RoundTrip(model=None))
    (tmp_path / "after").mkdir()
    with pytest.raises(InvalidRequest, match="name a new folder"):
        driven(diffusers_model, "diffusers", "full", keep=str(tmp_path))
    for line in (
        ["--before", "a"],
        ["micro-5b"],
        ["micro-5b", "--backend", "sat", "--lora", "x"],
        ["--before", "a", "--after", "b", "--keep", "c"],
        ["--before", "/nowhere", "--after", "/nowhere"],
    ):
        assert main(["roundtrip", *line]) == 2


def test_the_command_prints_a_table_and_writes_json(
    diffusers_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    line = ["roundtrip", str(diffusers_model), "--backend", "diffusers", "--mode", "lora"]
    code = main([*line, "--no-lora-metadata", "--device", "cpu", "--json", str(file)])
    printed = capsys.readouterr().out
    assert code == 1
    assert "lora.factor" in printed and "0.5 became 1.0" in printed
    written = json.loads(file.read_text())
    assert written["outcome"] == "changed"
    assert written["function"]["rel_l2"] > 0
