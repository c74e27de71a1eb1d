"""What the audit says of checkpoints without a fault: identical is proven, and said as such."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from audit_models import Model, State
from safetensors.torch import save_file

from backends.checkpoints import convert
from backends.errors import CheckpointError
from backends.micro import checkpoint_path
from harness.audit import audit
from harness.cli import main
from harness.errors import ParityError


def test_equal_models_of_two_formats_are_identical_up_to_layout(
    model: Model, sat_folder: Path
) -> None:
    for pair in ((model.folder, sat_folder), (sat_folder, model.folder)):
        report = audit(*pair)
        assert report.findings == [] and report.exit_code == 0 and report.identical
        assert set(report.compared) == {"identical"}
        assert report.compared["identical"] == sum(report.reference.tensors.values())
        assert report.headline.startswith("IDENTICAL up to layout")
        # Query, key, value and both modulations of two blocks, weight and bias.
        assert "20 of them cut or joined" in report.headline


def test_learned_positions_are_weights_in_either_format(tmp_path: Path) -> None:
    """SAT's table of them has the name of one that is computed."""
    sat, model = tmp_path / "sat", checkpoint_path("micro-5b-i2v")
    convert(model, sat, "sat")
    for pair in ((model, sat), (sat, model)):
        report = audit(*pair)
        assert report.findings == [] and report.exit_code == 0, report.findings
    (states,) = (sat / "transformer").glob("*/*.pt")
    content = torch.load(states, weights_only=True)
    content["module"]["model.diffusion_model.mixins.pos_embed.pos_embedding"][0, 40] *= 2
    torch.save(content, states)
    (finding,) = audit(model, sat).findings
    assert finding.name == "transformer.patch_embed.pos_embedding"


def test_one_flipped_bit_is_a_difference(model: Model, broken: Model) -> None:
    def flip(state: State) -> None:
        state["proj_out.weight"].view(torch.int32)[3, 5] ^= 1

    report = audit(model.folder, broken.edit(flip).folder)
    (finding,) = report.findings
    assert finding.name == "transformer.proj_out.weight" and report.exit_code == 1
    (tensor,) = [t for t in report.tensors if t.status == "differs"]
    assert tensor.difference is not None
    assert tensor.difference.max_ulps == 1.0
    assert tensor.difference.changed_share == pytest.approx(1 / (64 * 128))


def test_any_two_forms_of_one_component_can_be_compared(
    model: Model, sat_folder: Path, tmp_path: Path
) -> None:
    (states,) = (sat_folder / "transformer").glob("*/*.pt")
    loose = tmp_path / "transformer.pt"
    torch.save({"state_dict": model.state()}, loose)
    forms = [model.folder, model.folder / "transformer", sat_folder, sat_folder / "transformer",
             states, loose]  # fmt: skip
    for form in forms[1:]:
        report = audit(forms[0], form)
        assert report.findings == [] and report.compared["identical"] >= 60, form
        assert report.exit_code == (0 if form is sat_folder else 3), (form, report.coverage)
    weights = model.folder / "transformer" / "diffusion_pytorch_model.safetensors"
    assert audit(weights, loose).exit_code == 0
    vae = model.folder / "vae" / "diffusion_pytorch_model.safetensors"
    report = audit(sat_folder / "vae" / "3d-vae.pt", vae)
    assert report.exit_code == 0 and set(report.reference.tensors) == {"vae"}


def test_the_intended_dtype_accepts_exact_rounding_only(model: Model, broken: Model) -> None:
    broken.edit(lambda state: state.update({n: t.bfloat16() for n, t in state.items()}))
    assert audit(model.folder, broken.folder).exit_code == 1
    accepted = audit(model.folder, broken.folder, dtype="bfloat16")
    assert accepted.exit_code == 0 and not accepted.identical
    assert "IDENTICAL after rounding to bfloat16" in accepted.headline
    assert audit(model.folder, broken.folder, dtype="float16").exit_code == 1

    def nudge(state: State) -> None:
        state["proj_out.weight"].view(torch.int16)[0, 0] ^= 1

    assert audit(model.folder, broken.edit(nudge).folder, dtype="bfloat16").exit_code == 1


def test_values_that_float16_cannot_hold(model: Model, broken: Model) -> None:
    def enlarge(state: State) -> None:
        state["transformer_blocks.1.attn1.to_v.weight"][0, 0] = 1e5

    broken.edit(enlarge)
    report = audit(broken.folder, broken.folder)
    assert report.exit_code == 0
    assert any("float16 ends at 65504" in note.detail for note in report.notes)
    strict = audit(broken.folder, broken.folder, dtype="float16")
    (finding,) = strict.findings
    assert finding.block == "transformer_blocks.1" and strict.exit_code == 1


def test_statistics_are_those_of_the_tensor(model: Model) -> None:
    report = audit(model.folder, model.folder)
    name = "transformer_blocks.0.ff.net.2.weight"
    tensor = model.state()[name]
    values = next(t.values_a for t in report.tensors if t.name == f"transformer.{name}")
    assert values is not None
    assert values.count == tensor.numel()
    assert (values.minimum, values.maximum) == (float(tensor.min()), float(tensor.max()))
    assert values.std == pytest.approx(float(tensor.std()), rel=0.05)
    assert abs(values.mean - float(tensor.mean())) < 0.005
    assert values.quantiles[2] == pytest.approx(0, abs=0.01)


def test_non_finite_weights_are_told_even_if_both_sides_have_them(broken: Model) -> None:
    def spoil(state: State) -> None:
        state["proj_out.bias"][2] = float("nan")

    broken.edit(spoil)
    report = audit(broken.folder, broken.folder)
    (finding,) = report.findings
    assert "NaN or infinity" in finding.detail and report.exit_code == 1
    assert report.model_validate_json(report.model_dump_json()) == report


def test_mistakes_are_explained(model: Model, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="a component in common"):
        audit(model.folder / "transformer", model.folder / "vae")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        audit(model.folder, tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        audit(model.folder, tmp_path / "nothing.safetensors")
    save_file({"hello": torch.zeros(2)}, tmp_path / "odd.safetensors")
    with pytest.raises(CheckpointError, match="no tensor name belongs"):
        audit(model.folder, tmp_path / "odd.safetensors")


def test_the_command(
    model: Model, broken: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", str(model.folder), str(model.folder)]) == 0
    assert "IDENTICAL up to layout" in capsys.readouterr().out
    broken.configure("vae/config.json", scaling_factor=1.15258426)
    target = tmp_path / "audit.json"
    assert main(["audit", str(model.folder), str(broken.folder), "--json", str(target)]) == 1
    assert "vae.scaling_factor" in capsys.readouterr().out
    written = json.loads(target.read_text())
    assert [finding["name"] for finding in written["findings"]] == ["vae.scaling_factor"]
    assert main(["audit", "nowhere", str(model.folder)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_more_precise_values_and_signs_of_zeros_are_differences(
    model: Model, broken: Model, tmp_path: Path
) -> None:
    def rounded(state: State) -> None:
        state["proj_out.weight"] = state["proj_out.weight"].bfloat16().float()

    def zero(state: State) -> None:
        state["proj_out.bias"] = torch.zeros_like(state["proj_out.bias"])

    def negative_zero(state: State) -> None:
        state["proj_out.bias"] = -torch.zeros_like(state["proj_out.bias"])

    reference = model.copy(tmp_path / "rounded").edit(rounded)
    (finding,) = audit(reference.folder, model.folder).findings
    assert "more precise values, of which the reference's are the bfloat16" in finding.detail
    reference = model.copy(tmp_path / "zeros").edit(zero)
    report = audit(reference.folder, broken.edit(negative_zero).folder)
    (finding,) = report.findings
    assert "the sign of zeros only" in finding.detail and report.exit_code == 1
