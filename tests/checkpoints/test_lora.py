"""LoRA files of both formats: read exactly, converted both ways to the bit, refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from loras import LAYERS, header, lora_tensors, sat_lora, sat_yaml, save_lora
from safetensors import safe_open
from safetensors.torch import load_file

from backends.checkpoints import convert, digest, is_lora, open_lora
from backends.errors import CheckpointError, InvalidRequest, Unsupported

WEIGHTS = "pytorch_lora_weights.safetensors"


def digests(path: Path) -> dict[str, str]:
    return {name: digest(tensor) for name, tensor in open_lora(path).tensors.items()}


Tensors = dict[str, torch.Tensor]


def content(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Tensors and header of a file; the header's order is not in safetensors' hands."""
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        return {name: digest(file.get_tensor(name)) for name in file.keys()}, file.metadata()  # noqa: SIM118


def test_diffusers_to_sat_and_back_gives_the_file_back(tmp_path: Path) -> None:
    settings = {"r": 4, "lora_alpha": 2, "target_modules": ["to_q"], "something_else": [1, 2]}
    source = save_lora(tmp_path / "lora", lora_tensors(), header(**settings))
    there = convert(source, tmp_path / "sat", "sat")
    back = convert(tmp_path / "sat", tmp_path / "again", "diffusers")
    assert content(tmp_path / "again") == content(source)
    for report in (there, back):
        (component,) = report.components
        assert (component.component, component.tensors) == ("lora", 16)
        assert component.digest_before == component.digest_after
        (said,) = [n.why for n in report.notices if n.what == "rank and alpha"]
        assert said.startswith("rank 4, factor 0.5 on B A")


def test_sat_to_diffusers_and_back_gives_matrices_rank_and_alpha_back(tmp_path: Path) -> None:
    tensors = lora_tensors(rank=8, dtype=torch.bfloat16)
    config = sat_yaml(r=8, lora_alpha=3) + "# a comment\n"
    source = sat_lora(tmp_path / "sat", tensors, config, beside=True)
    report = convert(source, tmp_path / "lora", "diffusers")
    written = load_file(tmp_path / "lora" / WEIGHTS)
    assert {n: digest(t) for n, t in written.items()} == {n: digest(t) for n, t in tensors.items()}
    assert "1 tensors of mp_rank_00_model_states.pt" in {n.what for n in report.notices}
    convert(tmp_path / "lora", tmp_path / "again", "sat")
    assert (tmp_path / "again" / "latest").read_text() == "7"
    assert (tmp_path / "again" / "training_config.yaml").read_text() == config
    before, after = open_lora(source), open_lora(tmp_path / "again")
    assert digests(source) == digests(tmp_path / "again")
    assert before.modules == after.modules
    assert {m.scaling for m in after.modules.values()} == {3 / 8}


def test_a_changed_alpha_is_not_undone_by_what_the_conversion_kept(tmp_path: Path) -> None:
    source = sat_lora(tmp_path / "sat", lora_tensors(), sat_yaml(r=4, lora_alpha=1))
    convert(source, tmp_path / "lora", "diffusers")
    file = tmp_path / "lora" / WEIGHTS
    save_lora(tmp_path / "lora", load_file(file), header(r=4, lora_alpha=2))
    convert(tmp_path / "lora", tmp_path / "again", "sat")
    assert {m.alpha for m in open_lora(tmp_path / "again").modules.values()} == {2}


def test_what_the_two_formats_assume_where_nothing_is_said(tmp_path: Path) -> None:
    """The incident: the same matrices act 1/rank as strongly in SAT as in Diffusers."""
    plain = open_lora(save_lora(tmp_path / "lora", lora_tensors()))
    assert {m.scaling for m in plain.modules.values()} == {1.0}
    assert "alpha = rank" in plain.alpha_from
    bare = open_lora(sat_lora(tmp_path / "sat", lora_tensors()))
    assert {m.scaling for m in bare.modules.values()} == {1 / 4}
    assert "default alpha 1" in bare.alpha_from
    quiet = open_lora(sat_lora(tmp_path / "quiet", lora_tensors(), sat_yaml(r=4)))
    assert {m.scaling for m in quiet.modules.values()} == {1 / 4}
    convert(tmp_path / "sat", tmp_path / "converted", "diffusers")
    assert {m.scaling for m in open_lora(tmp_path / "converted").modules.values()} == {1 / 4}


def test_patterns_give_layers_their_own_rank_and_alpha(tmp_path: Path) -> None:
    tensors = lora_tensors(layers=LAYERS[:2]) | lora_tensors(layers=LAYERS[2:3], rank=8)
    metadata = header(
        r=4, lora_alpha=4, rank_pattern={"to_v": 8}, alpha_pattern={"0.attn1.to_v": 2, "to_k": 1}
    )
    lora = open_lora(save_lora(tmp_path / "lora", tensors, metadata))
    found = {n.removeprefix("transformer.transformer_blocks."): m for n, m in lora.modules.items()}
    assert {n: (m.rank, m.scaling) for n, m in found.items()} == {
        "0.attn1.to_q": (4, 1.0),
        "0.attn1.to_k": (4, 0.25),
        "0.attn1.to_v": (8, 0.25),
        "1.attn1.to_q": (4, 1.0),
        "1.attn1.to_k": (4, 0.25),
        "1.attn1.to_v": (8, 0.5),
    }
    with pytest.raises(Unsupported, match=r"lacks .*to_out"):
        convert(tmp_path / "lora", tmp_path / "sat", "sat")
    assert not (tmp_path / "sat").exists()


def test_rank_stabilised_factors(tmp_path: Path) -> None:
    folder = save_lora(
        tmp_path / "lora", lora_tensors(), header(r=4, lora_alpha=4, use_rslora=True)
    )
    assert {m.scaling for m in open_lora(folder).modules.values()} == {2.0}
    with pytest.raises(Unsupported, match="one alpha"):
        convert(folder, tmp_path / "sat", "sat")


def renamed(tensors: Tensors, old: str, new: str) -> Tensors:
    return {name.replace(old, new): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: renamed(t, "transformer.tr", "tr"),
            "none of 16 keys begins with `transformer.`",
        ),
        (lambda t: renamed(t, "lora_A", "down"), "8 of 16 keys are not LoRA matrices"),
        (lambda t: t | {"text_encoder.q.lora_A.weight": torch.ones(1)}, r"1 of 17 keys .*text_enc"),
        (
            lambda t: {n: v for n, v in t.items() if "0.attn1.to_q.lora_B" not in n},
            "one of the two",
        ),
        (
            lambda t: {n: v[:1] if "lora_A" in n else v for n, v in t.items()},
            r"expected \(rank, in\)",
        ),
        (lambda t: {}, "holds no tensors"),
    ],
)
def test_files_that_would_load_as_nothing_are_refused(
    tmp_path: Path, change: Callable[[Tensors], Tensors], message: str
) -> None:
    folder = save_lora(tmp_path / "lora", change(lora_tensors()))
    with pytest.raises(CheckpointError, match=message):
        open_lora(folder)


def test_contradictions_are_refused(tmp_path: Path) -> None:
    wrong_rank = save_lora(tmp_path / "a", lora_tensors(), header(r=8, lora_alpha=8))
    with pytest.raises(CheckpointError, match="header says rank 8"):
        open_lora(wrong_rank)
    no_alpha = save_lora(tmp_path / "b", lora_tensors(), header(r=4))
    with pytest.raises(CheckpointError, match="no PEFT configuration"):
        open_lora(no_alpha)
    with pytest.raises(CheckpointError, match="says rank 8"):
        open_lora(sat_lora(tmp_path / "c", lora_tensors(), sat_yaml(r=8)))
    with pytest.raises(CheckpointError, match=r"no LoRA at .*nowhere"):
        open_lora(tmp_path / "nowhere")
    with pytest.raises(InvalidRequest, match="already has format"):
        convert(save_lora(tmp_path / "d", lora_tensors()), tmp_path / "e", "diffusers")


def test_a_sat_checkpoint_without_lora_or_with_another_kind_is_refused(tmp_path: Path) -> None:
    for key, message in (
        ("model.diffusion_model.time_embed.0.weight", "no LoRA among 1 tensors"),
        ("transformer.layers.0.attention.dense.matrix_A.0", "1 LoRA keys that SAT's attention"),
        ("model.diffusion_model.mixins.lora.lora_linear.0.0_A", "1 LoRA keys"),
    ):
        file = tmp_path / f"{len(key)}.pt"
        torch.save({"module": {key: torch.ones(2, 2)}}, file)
        with pytest.raises(CheckpointError, match=message):
            open_lora(file)


def test_a_whole_model_is_not_taken_for_a_lora(pipeline_folder: Path, tmp_path: Path) -> None:
    assert not is_lora(pipeline_folder)
    assert not is_lora(pipeline_folder / "transformer")
    assert not is_lora(tmp_path)
    assert is_lora(save_lora(tmp_path / "lora", lora_tensors()))


def test_the_command_prints_the_audit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from harness.cli import main

    source = save_lora(tmp_path / "lora", lora_tensors(), header(r=4, lora_alpha=1))
    assert main(["convert", str(source), str(tmp_path / "sat"), "--to", "sat"]) == 0
    printed = capsys.readouterr().out
    assert "lora" in printed and "16 float32" in printed and "equal" in printed
    assert "factor 0.25" in printed
    metadata = json.loads((tmp_path / "sat" / "parity_conversion.json").read_text())
    assert "lora_adapter_metadata" in metadata["diffusers"]
