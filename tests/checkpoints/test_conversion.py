"""Whole folders there and back: every tensor to the bit, every configuration to the byte."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import CogVideoXPipeline, DiffusionPipeline
from safetensors.torch import load_file, save_file
from tiny_pipelines import KINDS

from backends.checkpoints import ConversionReport, canonical_state, convert, digest
from backends.checkpoints.diffusers import weight_files
from backends.checkpoints.sat.folder import open_sat
from backends.checkpoints.sat.yaml_reader import read_config
from backends.errors import CheckpointError, Unsupported

PREFIX = "model.diffusion_model."
MICRO = Path(__file__).parents[2] / "backends" / "micro" / "weights"


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def digests(folder: Path) -> dict[str, str]:
    return {name: digest(tensor) for name, tensor in canonical_state(folder).items()}


def sat_tensors(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and digest of every tensor in the two torch files, as torch reads them."""
    for path in sorted(folder.rglob("*.pt")):
        for key, state in torch.load(path, weights_only=True).items():
            for name, tensor in state.items():
                yield f"{path.name} {key} {name}", digest(tensor)


def notices(report: ConversionReport, action: str) -> dict[str, str]:
    return {notice.what: notice.why for notice in report.notices if notice.action == action}


@pytest.fixture
def sat_folder(pipeline_folder: Path, tmp_path: Path) -> Path:
    convert(pipeline_folder, tmp_path / "sat", "sat")
    return tmp_path / "sat"


def edit_yaml(folder: Path, name: str = "cogvideox.yaml") -> Any:
    return yaml.safe_load((folder / name).read_text())


def test_diffusers_to_sat_and_back_gives_every_file_back(
    any_kind: str, pipelines: dict[str, Path], tmp_path: Path
) -> None:
    source = pipelines[any_kind]
    there = convert(source, tmp_path / "sat", "sat")
    back = convert(tmp_path / "sat", tmp_path / "again", "diffusers")
    again = files(tmp_path / "again")
    del again["parity_conversion.json"]
    assert again == files(source)
    for report in (there, back):
        assert [c.component for c in report.components] == ["transformer", "vae", "text_encoder"]
        assert all(c.digest_before == c.digest_after for c in report.components)
    transformer, vae, text = there.components
    count = KINDS[any_kind].tensors
    assert (transformer.tensors, transformer.renamed, transformer.regrouped) == (count, count, 20)
    assert transformer.dtypes.keys() <= {"float16", "bfloat16"}
    assert vae.dtypes == {"float32": vae.tensors}
    assert text.renamed == 0


def test_sat_to_diffusers_and_back_gives_every_tensor_back(
    any_kind: str, pipelines: dict[str, Path], tmp_path: Path
) -> None:
    """A folder as SAT users have it: another iteration, other names, comments, rounded tables."""
    sat_folder = tmp_path / "sat"
    convert(pipelines[any_kind], sat_folder, "sat")
    (sat_folder / "transformer" / "1").rename(sat_folder / "transformer" / "1000")
    (sat_folder / "transformer" / "latest").write_text("1000")
    (sat_folder / "parity_conversion.json").unlink()
    (sat_folder / "t5-v1_1-xxl").rename(sat_folder / "t5")
    text = (sat_folder / "cogvideox.yaml").read_text().replace("t5-v1_1-xxl", "/models/t5")
    (sat_folder / "cogvideox.yaml").unlink()
    (sat_folder / "my_model.yaml").write_text("# tuned by me\n" + text)
    path = sat_folder / "transformer" / "1000" / "mp_rank_00_model_states.pt"
    module = torch.load(path, weights_only=True)["module"]
    for name in list(module):
        if "pos_embed.freqs" in name or (KINDS[any_kind].rotary is False and "pos_embed" in name):
            module[name] = module[name].bfloat16()
    torch.save({"module": module}, path)

    convert(sat_folder, tmp_path / "diffusers", "diffusers")
    convert(tmp_path / "diffusers", tmp_path / "again", "sat")
    assert list(sat_tensors(tmp_path / "again")) == list(sat_tensors(sat_folder))
    after, before = files(tmp_path / "again"), files(sat_folder)
    changed = {name for name in after if after[name] != before.get(name)}
    assert {n for n in changed if not n.endswith(".pt")} == {"parity_conversion.json"}
    assert before.keys() <= after.keys()


def test_both_formats_have_one_canonical_state(pipeline_folder: Path, sat_folder: Path) -> None:
    here = digests(pipeline_folder)
    assert here == digests(sat_folder)
    assert "vae.decoder.up_blocks.3.resnets.0.conv1.conv.weight" in here
    assert {name.split(".")[0] for name in here} == {"transformer", "vae", "text_encoder"}


def test_diffusers_loads_a_folder_made_from_sat_alone(sat_folder: Path, tmp_path: Path) -> None:
    """Without the sidecar everything comes from SAT's own files."""
    (sat_folder / "parity_conversion.json").unlink()
    report = convert(sat_folder, tmp_path / "diffusers", "diffusers")
    assert "sampler steps and guidance" in notices(report, "dropped")
    pipe = CogVideoXPipeline.from_pretrained(tmp_path / "diffusers")
    config = read_config(sat_folder / "cogvideox.yaml")
    rotary = config.transformer.positions == "rotary"
    assert type(pipe.scheduler).__name__ == f"CogVideoX{'DPM' if rotary else 'DDIM'}Scheduler"
    assert pipe.scheduler.config.snr_shift_scale == (1.0 if rotary else 3.0)
    assert pipe.scheduler.config.timestep_spacing == "trailing"
    assert pipe.vae.config.scaling_factor == config.scale_factor
    assert (pipe.vae.config.sample_height, pipe.vae.config.sample_width) == (48, 64)
    assert pipe.transformer.config.sample_frames == 9
    assert pipe.transformer.config.use_rotary_positional_embeddings is rotary


def test_the_audit_names_what_neither_format_can_say(
    any_kind: str, pipelines: dict[str, Path], tmp_path: Path
) -> None:
    """The two code bases scale the image of 1.5 differently, by code, whatever is configured."""
    report = convert(pipelines[any_kind], tmp_path / "sat", "sat")
    rebuilt, dropped = notices(report, "rebuilt"), notices(report, "dropped")
    tables = {
        "2b": {"mixins.pos_embed.pos_embedding"},
        "1.5": {"transformer.position_embeddings.weight"},
    }
    three = {
        "mixins.pos_embed.freqs_sin",
        "mixins.pos_embed.freqs_cos",
        "transformer.position_embeddings.weight",
    }
    assert set(rebuilt) == tables.get(any_kind.removesuffix("-i2v"), three)
    scale = dropped.get("scale of the conditioning image", "")
    assert ("by 1, Diffusers by 1.42857" in scale) == (any_kind == "1.5-i2v")


@pytest.mark.parametrize("name", ["5b-i2v", "1.5", "1.5-i2v"])
def test_diffusers_loads_every_kind_made_from_sat_alone(
    name: str, pipelines: dict[str, Path], tmp_path: Path
) -> None:
    kind, source = KINDS[name], pipelines[name]
    convert(source, tmp_path / "sat", "sat")
    (tmp_path / "sat" / "parity_conversion.json").unlink()
    convert(tmp_path / "sat", tmp_path / "diffusers", "diffusers")
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "diffusers")
    assert ("ImageToVideo" in type(pipe).__name__) == kind.image
    config = pipe.transformer.config
    assert config.patch_size_t == (2 if kind.is_15 else None)
    assert config.ofs_embed_dim == (64 if kind.is_15 and kind.image else None)
    assert config.use_learned_positional_embeddings is kind.learned
    assert pipe.vae.config.invert_scale_latents is kind.is_15
    original = DiffusionPipeline.from_pretrained(source).transformer.state_dict()
    loaded = pipe.transformer.state_dict()
    assert {n: digest(t) for n, t in loaded.items()} == {
        n: digest(t.to(loaded[n].dtype)) for n, t in original.items()
    }


def test_a_new_sat_folder_has_the_layout_and_the_yaml_that_sat_reads(sat_folder: Path) -> None:
    assert {entry.name for entry in sat_folder.iterdir()} == {
        "cogvideox.yaml", "parity_conversion.json", "t5-v1_1-xxl", "transformer", "vae",
    }  # fmt: skip
    assert (sat_folder / "transformer" / "latest").read_text() == "1"
    state = torch.load(sat_folder / "transformer/1/mp_rank_00_model_states.pt", weights_only=True)
    assert all(name.startswith(PREFIX) for name in state["module"])
    document = edit_yaml(sat_folder)
    rotary = read_config(sat_folder / "cogvideox.yaml").transformer.positions == "rotary"
    assert document["args"]["bf16" if rotary else "fp16"] is True
    assert document["args"]["sampling_image_size"] == [48, 64]
    assert document["args"]["sampling_num_frames"] == 3
    sampler = document["model"]["sampler_config"]["target"]
    assert sampler.endswith("VPSDEDPMPP2MSampler" if rotary else "VideoDDIMSampler")


def test_what_a_folder_says_itself_beats_what_the_sidecar_kept(
    sat_folder: Path, tmp_path: Path
) -> None:
    document = edit_yaml(sat_folder)
    document["model"]["scale_factor"] = 0.5
    document["args"]["sampling_fps"] = 16
    (sat_folder / "cogvideox.yaml").write_text(yaml.safe_dump(document))
    convert(sat_folder, tmp_path / "diffusers", "diffusers")
    path = tmp_path / "diffusers" / "vae" / "config.json"
    config = json.loads(path.read_text())
    assert config["scaling_factor"] == 0.5
    assert config["_diffusers_version"]
    path.write_text(json.dumps(config | {"scaling_factor": 0.25}))
    report = convert(tmp_path / "diffusers", tmp_path / "again", "sat")
    assert "model section of cogvideox.yaml" in notices(report, "chosen")
    again = edit_yaml(tmp_path / "again")
    assert again["model"]["scale_factor"] == 0.25
    assert again["args"]["sampling_fps"] == 16


def test_shards_and_torch_files_convert_like_whole_safetensors(
    pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shutil.copytree(pipeline_folder, tmp_path / "source")
    weights = source / "text_encoder" / "model.safetensors"
    torch.save(load_file(weights), source / "text_encoder" / "pytorch_model.bin")
    weights.unlink()
    monkeypatch.setattr(weight_files, "SHARD_BYTES", 200_000)
    report = convert(source, tmp_path / "sat", "sat")
    assert "rewritten as safetensors" in notices(report, "dropped").values()
    convert(tmp_path / "sat", tmp_path / "diffusers", "diffusers")
    parts = list((tmp_path / "diffusers" / "transformer").glob("*-of-*.safetensors"))
    assert len(parts) > 3
    assert digests(tmp_path / "diffusers") == digests(pipeline_folder)
    pipe = CogVideoXPipeline.from_pretrained(tmp_path / "diffusers")
    assert pipe.transformer.config.num_layers == 2


@pytest.mark.parametrize("changed", [False, True])
def test_a_fine_tuned_checkpoint_may_hold_rounded_copies_of_frozen_parts_only(
    sat_folder: Path, tmp_path: Path, changed: bool
) -> None:
    """SAT saves its whole engine: CogVideo issue 633."""
    path = sat_folder / "transformer" / "1" / "mp_rank_00_model_states.pt"
    module = torch.load(path, weights_only=True)["module"]
    vae = torch.load(sat_folder / "vae" / "3d-vae.pt", weights_only=True)["state_dict"]
    text = load_file(sat_folder / "t5-v1_1-xxl" / "model.safetensors")
    text["encoder.embed_tokens.weight"] = text["shared.weight"]
    for prefix, state in (
        ("first_stage_model.", vae),
        ("conditioner.embedders.0.transformer.", text),
    ):
        module |= {prefix + name: tensor.bfloat16() for name, tensor in state.items()}
    if changed:
        module["first_stage_model.encoder.conv_in.conv.bias"] *= 2
    torch.save({"module": module}, path)
    if changed:
        with pytest.raises(
            CheckpointError, match=r"1 of them differ .* encoder\.conv_in\.conv\.bias"
        ):
            convert(sat_folder, tmp_path / "diffusers", "diffusers")
        return
    before = dict(digests(sat_folder))
    report = convert(sat_folder, tmp_path / "diffusers", "diffusers")
    dropped = [what for what in notices(report, "dropped") if "mp_rank_00" in what]
    assert [what.split()[0] for what in dropped] == [str(len(vae)), str(len(text))]
    assert digests(tmp_path / "diffusers") == before
    assert report.components[1].dtypes == {"float32": len(vae)}


def test_loss_networks_and_foreign_files_are_left_out_and_named(
    sat_folder: Path, tmp_path: Path
) -> None:
    path = sat_folder / "vae" / "3d-vae.pt"
    state = torch.load(path, weights_only=True)["state_dict"]
    torch.save({"state_dict": {**state, "loss.logvar": torch.zeros(())}}, path)
    (sat_folder / "README.md").write_text("mine")
    dropped = notices(convert(sat_folder, tmp_path / "diffusers", "diffusers"), "dropped")
    assert "1 VAE tensors loss.*" in dropped
    assert dropped["README.md"] == "not a part of the model"


@pytest.mark.parametrize(
    ("file", "key", "value", "says"),
    [
        ("scheduler/scheduler_config.json", "timestep_spacing", "linspace", "fixes 'trailing'"),
        ("scheduler/scheduler_config.json", "_class_name", "DDIMScheduler", "no sampler like DDIM"),
        ("transformer/config.json", "ofs_embed_dim", 64, "a mixture of CogVideoX 1.0 and 1.5"),
        ("transformer/config.json", "patch_bias", False, "patch_bias is False"),
        ("transformer/config.json", "in_channels", 32, "_class_name is 'CogVideoXPipeline'"),
        ("transformer/config.json", "in_channels", 24, "image-to-video models, with twice as many"),
        ("vae/config.json", "invert_scale_latents", True, "invert_scale_latents is True"),
        ("vae/config.json", "block_out_channels", [32, 48, 64, 128], "not multiples"),
        ("model_index.json", "_class_name", "CogVideoXImageToVideoPipeline", "_class_name is"),
    ],
)
def test_a_pipeline_without_sat_form_is_unsupported_and_says_why(
    pipeline_folder: Path, tmp_path: Path, file: str, key: str, value: object, says: str
) -> None:
    source = shutil.copytree(pipeline_folder, tmp_path / "source")
    config = json.loads((source / file).read_text())
    (source / file).write_text(json.dumps(config | {key: value}))
    with pytest.raises(Unsupported, match=says):
        convert(source, tmp_path / "sat", "sat")


def test_two_schedules_in_one_yaml_are_unsupported(sat_folder: Path, tmp_path: Path) -> None:
    document = edit_yaml(sat_folder)
    schedule = document["model"]["denoiser_config"]["params"]["discretization_config"]
    schedule["params"]["shift_scale"] = 2.0
    (sat_folder / "cogvideox.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(Unsupported, match="Make them equal"):
        convert(sat_folder, tmp_path / "diffusers", "diffusers")


@pytest.mark.parametrize("name", ["micro-2b", "micro-5b"])
def test_the_embedded_models_convert_there_and_back(name: str, tmp_path: Path) -> None:
    if not (MICRO / name / "model_index.json").is_file():
        pytest.skip(f"{name} is not built yet")
    convert(MICRO / name, tmp_path / "sat", "sat")
    convert(tmp_path / "sat", tmp_path / "diffusers", "diffusers")
    assert digests(tmp_path / "diffusers") == digests(MICRO / name)
    assert open_sat(tmp_path / "sat").config.transformer.num_layers == 6


def test_bits_that_arithmetic_would_lose_survive(pipeline_folder: Path, tmp_path: Path) -> None:
    """NaN payloads, infinities and negative zeros pass through joining and splitting."""
    source = shutil.copytree(pipeline_folder, tmp_path / "source")
    path = source / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    for name in ("attn1.to_k.weight", "norm2.linear.weight", "ff.net.2.bias"):
        tensor = state[f"transformer_blocks.1.{name}"].view(torch.int16).flatten()
        tensor.copy_(torch.arange(-(2**15), 2**15, dtype=torch.int32).repeat(2)[: len(tensor)])
    save_file(state, path)
    convert(source, tmp_path / "sat", "sat")
    convert(tmp_path / "sat", tmp_path / "diffusers", "diffusers")
    assert digests(tmp_path / "diffusers") == digests(source)
