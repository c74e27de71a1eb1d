"""Kind D: an audit passes only over what it compared, and says what that was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer

from backends.errors import CheckpointError
from backends.micro import model_path
from harness.audit import audit
from harness.audit.records import AuditReport
from harness.cli import main

State = dict[str, Tensor]
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two copies of the micro model, to be changed."""
    source = model_path("micro-5b")
    return copied(source, tmp_path / "reference"), copied(source, tmp_path / "candidate")


def copied(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


def edit(file: Path, change: Callable[[State], None]) -> None:
    state = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(state)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)


def times(factor: float) -> Callable[[State], None]:
    return lambda state: state.update({name: t * factor for name, t in state.items()})


def not_compared(report: AuditReport) -> str:
    return "; ".join(text for row in report.coverage for text in row.missing)


def add_component(folder: Path, name: str, factor: float, *, named: bool = True) -> None:
    """A component of any name: small weights, times `factor`, with or without an index entry."""
    (folder / name).mkdir()
    weights = torch.arange(1.0, 65.0).view(8, 8) * factor
    save_file({"proj.weight": weights}, folder / name / WEIGHTS)
    index = folder / "model_index.json"
    if named:
        content = json.loads(index.read_text()) | {name: ["diffusers", "AnyModel"]}
        index.write_text(json.dumps(content))


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("name", ["transformer_2", "text_encoder_2", "prior", "image_encoder"])
def test_a_component_of_any_name_is_compared(
    name: str, named: bool, pair: tuple[Path, Path]
) -> None:
    for folder, factor in zip(pair, (1.0, 1.5), strict=True):
        add_component(folder, name, factor, named=named)
    report = audit(*pair)
    (finding,) = report.findings
    assert f"{name}.proj" in finding.detail and "times 1.5" in finding.detail
    assert report.exit_code == 1 and "DIFFERENT" in report.headline
    assert audit(pair[0], pair[0]).exit_code == 0


def test_the_settings_of_an_unknown_component_count(pair: tuple[Path, Path]) -> None:
    for folder, scale in zip(pair, (1, 2), strict=True):
        add_component(folder, "prior", 1.0)
        (folder / "prior" / "config.json").write_text(json.dumps({"scale": scale}))
    assert [finding.name for finding in audit(*pair).findings] == ["prior.scale"]


def test_everything_compared_is_said(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "audit.json"
    assert main(["audit", *map(str, pair), "--json", str(target)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "421 of 421 tensors compared; components: text_encoder, transformer, vae" in said
    assert "not compared: nothing" in said
    rows = {row["kind"]: row for row in json.loads(target.read_text())["coverage"]}
    assert rows["tensors"]["compared"] == rows["tensors"]["total"] == 421
    assert rows["files"]["total"] == 3, "the tokenizer's files"


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_a_part_does_not_stand_for_the_whole(part: str, pair: tuple[Path, Path]) -> None:
    report = audit(pair[0], pair[1] / part)
    assert report.exit_code == 3 and report.headline.startswith("UNDECIDED")
    others = {"transformer", "vae", "text_encoder"} - {part}
    assert all(f"{other} (" in not_compared(report) for other in others)
    assert audit(pair[0] / part, pair[1] / part).exit_code == 0


def drop_weights(folder: Path) -> None:
    (folder / "vae" / WEIGHTS).unlink()


def change_vocabulary(folder: Path) -> None:
    file = folder / "tokenizer" / "spiece.model"
    file.write_bytes(file.read_bytes() + b"\n")


def drop_tokenizer_file(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").unlink()


def tokenizer_of_words_only(folder: Path) -> None:
    """What transformers can open from its vocabulary, and its own reader cannot."""
    file = folder / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    file.write_text(
        json.dumps({"version": "none", **{k: content[k] for k in ("model", "added_tokens")}})
    )


def damage_tokenizer(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")


def save_tokenizer_anew(folder: Path) -> None:
    """As CogVideo's script for conversion does, and everyone who saves a pipeline."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder / "tokenizer"))
    shutil.rmtree(folder / "tokenizer")
    tokenizer.save_pretrained(str(folder / "tokenizer"))


@pytest.mark.parametrize("change", [drop_tokenizer_file, save_tokenizer_anew])
def test_other_files_of_the_same_tokenizer_are_compared_as_a_function(
    change: Callable[[Path], None], pair: tuple[Path, Path]
) -> None:
    change(pair[1])
    report = audit(*pair)
    assert report.findings == [] and report.exit_code == 0, not_compared(report)


@pytest.mark.parametrize("key", ["padding_side", "truncation_side"])
def test_the_side_that_is_padded_or_cut_is_part_of_the_function(
    key: str, pair: tuple[Path, Path]
) -> None:
    file = pair[1] / "tokenizer" / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: "left"}))
    (finding,) = audit(*pair).findings
    assert "has other tokens when padded and cut" in finding.detail


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["model"]["vocab"].insert(40, c["model"]["vocab"].pop(60)), "another number"),
        (
            lambda c: [p.__setitem__(1, -90.0) for p in c["model"]["vocab"] if len(p[0]) > 3],
            "has other tokens",
        ),
        (lambda c: c.update(normalizer={"type": "Lowercase"}), "has other tokens"),
        (lambda c: c.update(pre_tokenizer=None), "has other tokens"),
        (lambda c: c.update(post_processor=None), "has other tokens"),
    ],
    ids=["two tokens exchanged", "words unlikely", "lower case", "no words", "no end"],
)
def test_a_tokenizer_that_is_another_function_is_a_finding(
    change: Callable[[Any], object], says: str, pair: tuple[Path, Path]
) -> None:
    file = pair[1] / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    report = audit(*pair)
    (finding,) = report.findings
    assert report.exit_code == 1 and finding.component == "text" and says in finding.detail


def add_variant(folder: Path) -> None:
    name = "diffusion_pytorch_model.fp16.safetensors"
    save_file({"proj.weight": torch.ones(2)}, folder / "transformer" / name)


def add_loose_file(folder: Path) -> None:
    save_file({"proj.weight": torch.ones(2)}, folder / "pytorch_lora_weights.safetensors")


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (change_vocabulary, "tokenizer/spiece.model"),
        (damage_tokenizer, "tokenizer/tokenizer.json"),
        (tokenizer_of_words_only, "tokenizer/tokenizer.json"),
        (add_variant, "transformer/diffusion_pytorch_model.fp16.safetensors"),
        (add_loose_file, "pytorch_lora_weights.safetensors"),
    ],
)
def test_what_was_not_compared_is_no_pass(
    change: Callable[[Path], None], names: str, pair: tuple[Path, Path]
) -> None:
    change(pair[1])
    report = audit(*pair)
    assert report.findings == [] and report.exit_code == 3 and not report.identical
    assert names in not_compared(report)


def test_weights_that_both_sides_lack_are_no_pass(pair: tuple[Path, Path]) -> None:
    for folder in pair:
        drop_weights(folder)
    report = audit(*pair)
    assert report.exit_code == 3 and "vae" in not_compared(report)
    for folder in pair:
        shutil.rmtree(folder / "vae")
    assert "does not exist" in not_compared(audit(*pair))


def test_a_bare_weight_file_has_no_settings_to_compare(pair: tuple[Path, Path]) -> None:
    report = audit(pair[0] / "vae", pair[1] / "vae" / WEIGHTS)
    assert report.exit_code == 3 and "settings" in not_compared(report)
    assert audit(pair[0] / "vae" / WEIGHTS, pair[1] / "vae" / WEIGHTS).exit_code == 0


@pytest.mark.parametrize("part", ["transformer", "vae"])
@pytest.mark.parametrize("cut", [1, 4096, 0.5])
def test_a_truncated_file_is_a_damaged_file(
    cut: float, part: str, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    file = pair[1] / part / WEIGHTS
    content = file.read_bytes()
    kept = len(content) - int(cut if cut >= 1 else cut * len(content))
    file.write_bytes(content[:kept])
    says = f"describes {len(content)} bytes, and the file has {kept}"
    with pytest.raises(CheckpointError, match=says):
        audit(*pair)
    assert main(["audit", *map(str, pair)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert file.name in said and "Download it again" in said and "missing" not in said


def test_a_file_that_is_too_long_or_lost_a_shard_is_damaged(pair: tuple[Path, Path]) -> None:
    file = pair[1] / "vae" / WEIGHTS
    file.write_bytes(file.read_bytes() + b"\0" * 100)
    with pytest.raises(CheckpointError, match="more than was written"):
        audit(*pair)
    file.unlink()
    shard = "diffusion_pytorch_model-00001-of-00001.safetensors"
    index = {"weight_map": {"decoder.conv_in.conv.bias": shard}}
    (file.parent / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=shard):
        audit(*pair)


SAT_LAYERS = {"query_key_value": ("to_q", "to_k", "to_v"), "dense": ("to_out.0",)}


def sat_lora(folder: Path, rank: int, alpha: float | None) -> Path:
    """A SAT LoRA of one block, with the YAML that says its alpha unless that is None."""
    generator = torch.Generator().manual_seed(3)
    module = {
        f"model.diffusion_model.transformer.layers.0.attention.{kind}.matrix_{which}.{index}":
        torch.randn((rank, 32) if which == "A" else (32, rank), generator=generator)
        for kind, parts in SAT_LAYERS.items() for index in range(len(parts)) for which in "AB"
    }  # fmt: skip
    (folder / "1").mkdir(parents=True)
    torch.save({"module": module}, folder / "1" / "mp_rank_00_model_states.pt")
    (folder / "latest").write_text("1")
    if alpha is not None:
        params = {"r": rank, "lora_alpha": alpha}
        config = {"target": "sat.model.finetune.lora2.LoraMixin", "params": params}
        (folder / "training_config.yaml").write_text(json.dumps({"lora_config": config}))
    return folder


@pytest.mark.parametrize(("rank", "alpha"), [(8, 4.0), (8, 16.0), (4, 4.0), (4, None)])
def test_a_sat_lora_has_the_alpha_of_its_yaml(
    rank: int, alpha: float | None, tmp_path: Path
) -> None:
    from backends.checkpoints import convert

    sat, exported = sat_lora(tmp_path / "sat", rank, alpha), tmp_path / "exported"
    convert(sat, exported, "diffusers")
    report = audit(sat, exported)
    assert report.findings == [] and report.exit_code == 0
    (file,) = exported.glob("*.safetensors")
    save_file(load_file(file), tmp_path / "lost.safetensors")
    lost = audit(sat, tmp_path / "lost.safetensors")
    if alpha == rank:
        assert lost.exit_code == 0, "alpha is the rank, which is what a file without one means"
    else:
        assert [finding.name for finding in lost.findings] == ["scale"]


def test_a_yaml_of_another_lora_is_refused(tmp_path: Path) -> None:
    sat = sat_lora(tmp_path / "sat", 8, 4.0)
    yaml = sat / "training_config.yaml"
    yaml.write_text(yaml.read_text().replace('"r": 8', '"r": 16'))
    with pytest.raises(CheckpointError, match="different trainings"):
        audit(sat, sat)


def configure(file: Path, **values: object) -> None:
    config = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def widen(folder: Path, part: str) -> None:
    edit(folder / part / WEIGHTS, lambda s: s.update({n: t.float() for n, t in s.items()}))


@pytest.mark.parametrize("parts", [("vae",), ("transformer",), ("transformer", "vae")])
def test_a_right_conversion_is_not_red(parts: tuple[str, ...], pair: tuple[Path, Path]) -> None:
    for part in parts:
        widen(pair[1], part)
    scheduler = pair[1] / "scheduler" / "scheduler_config.json"
    configure(scheduler, _class_name="CogVideoXDDIMScheduler")
    report = audit(*pair)
    assert report.findings == [] and report.exit_code == 0
    assert not report.identical and report.headline.startswith("EQUAL in every value")
    said = " ".join(note.detail for note in report.notes)
    assert "nothing was lost" in said and "scheduler._class_name differs" in said


def test_what_changes_a_result_stays_red(pair: tuple[Path, Path]) -> None:
    scheduler = pair[1] / "scheduler" / "scheduler_config.json"
    configure(scheduler, _class_name="EulerDiscreteScheduler")
    assert [finding.name for finding in audit(*pair).findings] == ["scheduler._class_name"]
    configure(scheduler, _class_name="CogVideoXDDIMScheduler", beta_end=0.013)
    assert [finding.name for finding in audit(*pair).findings] == ["scheduler.beta_end"]
    widen(pair[1], "vae")
    assert audit(*pair, dtype="bfloat16").exit_code == 1, "another dtype was asked for"


def advice(folder: Path) -> str:
    report = audit(folder, folder)
    return " ".join(f"{f.detail} {f.remedy or ''}" for f in (*report.findings, *report.notes))


def test_advice_is_for_a_certain_family_only(pair: tuple[Path, Path]) -> None:
    folder = pair[0]
    transformer = folder / "transformer" / "config.json"
    scheduler = folder / "scheduler" / "scheduler_config.json"
    configure(scheduler, prediction_type="epsilon")
    configure(folder / "vae" / "config.json", scaling_factor=1.15258426)
    assert "CogVideoX-5B has 0.7" in advice(folder) and "v_prediction" in advice(folder)
    configure(folder / "vae" / "config.json", scaling_factor=0.7)
    configure(transformer, use_rotary_positional_embeddings=None)
    assert "1.15258426" not in advice(folder), "a 5B without its flag is no 2B"
    for kind, extra in (
        ("WanTransformer3DModel", {}),
        ("LTXVideoTransformer3DModel", {"patch_size_t": 1}),
        (None, {"patch_size_t": 2}),
    ):
        configure(transformer, _class_name=kind, **extra)
        assert "CogVideoX" not in advice(folder).replace(str(folder), ""), kind


@pytest.mark.parametrize(("heads", "rotary", "family"), [
    (30, False, "CogVideoX-2B"), (48, True, "CogVideoX-5B"), (48, False, None), (30, True, None),
])  # fmt: skip
def test_a_published_width_and_its_positions_agree(
    heads: int, rotary: bool, family: str | None
) -> None:
    from harness.audit.families import recognise

    found = recognise({
        "transformer._class_name": "CogVideoXTransformer3DModel",
        "transformer.num_attention_heads": heads,
        "transformer.attention_head_dim": 64,
        "transformer.use_rotary_positional_embeddings": rotary,
    })  # fmt: skip
    assert (found and found.name) == family
