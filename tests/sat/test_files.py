"""YAML configs and checkpoint files: what is read, and what is refused in which words."""

from __future__ import annotations

import pickle
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_sat import FAMILY, MODEL
from torch import nn

from backends.checkpoints.sat import checkpoint
from backends.checkpoints.sat.document import sat_document
from backends.checkpoints.sat.layout import find_parts
from backends.checkpoints.sat.yaml_reader import read_config
from backends.errors import CheckpointError, Unsupported

MADE: list[str] = []


class Evil:
    def __reduce__(self) -> Any:
        return MADE.append, ("ran",)


@pytest.fixture
def document() -> dict[str, Any]:
    """A config with every key of CogVideo's published cogvideox_2b.yaml, at a tiny size."""
    return yaml.safe_load(sat_document(MODEL, "float16"))


def _read(document: Any, folder: Path) -> Any:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    return read_config(path)


@pytest.mark.parametrize("name", FAMILY)
def test_a_config_is_read_into_settings(name: str, tmp_path: Path) -> None:
    model = replace(MODEL, transformer=replace(FAMILY[name]))
    assert _read(yaml.safe_load(sat_document(model, "bfloat16")), tmp_path) == model


def test_a_config_of_1_5_has_the_keys_of_the_published_one(tmp_path: Path) -> None:
    """`patch_size` is a list there, `ofs_embed_dim` stands at the top, 22 latent frames make 81."""
    transformer = replace(FAMILY["1.5-i2v"], num_frames=81)
    document = yaml.safe_load(sat_document(replace(MODEL, transformer=transformer), "bfloat16"))
    params = document["model"]["network_config"]["params"]
    assert params["patch_size"] == [2, 2, 2] and params["ofs_embed_dim"] == 48
    assert document["model"]["noised_image_input"] is True
    args = document["args"]
    assert (args["image2video"], args["sampling_num_frames"], args["sampling_fps"]) == (
        True,
        22,
        16,
    )
    assert "sampling_image_size" not in args
    document["model"] |= {"latent_input": False, "augmentation_dropout": 0.15}
    assert _read(document, tmp_path).transformer == transformer


def test_defaults_are_those_of_the_published_files(document: Any, tmp_path: Path) -> None:
    """The published 2B file leaves out what has a default in CogVideo's classes."""
    model = document["model"]
    for config in (
        model["denoiser_config"]["params"]["discretization_config"],
        model["sampler_config"]["params"]["discretization_config"],
    ):
        config["params"] = {"shift_scale": 3.0}
    del model["network_config"]["params"]["transformer_args"]["layernorm_epsilon"]
    del model["network_config"]["params"]["modules"]["pos_embed_config"]["params"][
        "time_interpolation"
    ]
    for side in ("encoder_config", "decoder_config"):
        del model["first_stage_config"]["params"][side]["params"]["temporal_compress_times"]
    assert _read(document, tmp_path) == MODEL


def _put(document: Any, path: str, value: Any) -> Any:
    changed = deepcopy(document)
    *parents, last = path.split(".")
    place = changed["model"]
    for parent in parents:
        place = place[parent]
    place[last] = value
    return changed


NETWORK = "network_config.params"


@pytest.mark.parametrize(
    ("path", "value", "error", "words"),
    [
        ("sampler_config.target", "os.system", Unsupported, "target 'os.system' is not known"),
        ("sampler_config.target", "sgm.modules.diffusionmodules.sampling.HeunEDMSampler",
         Unsupported, "VPSDEDPMPP2MSampler"),
        (f"{NETWORK}.patch_size", [2, 2, 2], Unsupported, "CogVideoX 1.5"),
        (f"{NETWORK}.patch_size", [2, 2, 4], Unsupported, "square patches"),
        (f"{NETWORK}.patch_size", "2", CheckpointError, "expected list"),
        (f"{NETWORK}.ofs_embed_dim", 48, Unsupported, "a patch_size of 1.0"),
        (f"{NETWORK}.modules.pos_embed_config.params.learnable_pos_embed", True, Unsupported,
         "beside rotary"),
        (f"{NETWORK}.in_channels", 6, Unsupported, "image-to-video"),
        (f"{NETWORK}.modules.lora_config", {"target": "x"}, Unsupported, "LoRA"),
        (f"{NETWORK}.num_layers", 0, CheckpointError, "an integer from 1"),
        (f"{NETWORK}.num_layers", True, CheckpointError, "expected int"),
        (f"{NETWORK}.hidden_size", None, CheckpointError, "'hidden_size' is missing"),
        (f"{NETWORK}.depth", 3, Unsupported, "unknown keys depth"),
        ("scale_factor", "much", CheckpointError, "'much', expected float"),
        ("denoiser_config.params.quantize_c_noise", True, Unsupported, "quantize_c_noise"),
        ("first_stage_config.params.decoder_config.params.ch", 64, Unsupported, "differ"),
        ("conditioner_config.params.emb_models", [], Unsupported, "0 conditioners"),
        (f"{NETWORK}.modules.pos_embed_config.params.text_length", 6, CheckpointError, "equal"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_rendered_is_refused(
    document: Any, tmp_path: Path, path: str, value: Any, error: Any, words: str
) -> None:
    with pytest.raises(error, match=words):
        _read(_put(document, path, value), tmp_path)


@pytest.mark.parametrize("text", ["- a", "{", "a: !!python/object/apply:os.system [ls]"])
def test_a_damaged_config_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(CheckpointError):
        read_config(path)


def test_the_parts_of_a_folder(document: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no `transformer/`"):
        find_parts(tmp_path)
    (tmp_path / "transformer").mkdir()
    with pytest.raises(CheckpointError, match=r"exactly one YAML file .* found: none"):
        find_parts(tmp_path)
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(document))
    (tmp_path / "inference.yaml").write_text("args: {bf16: true}")
    with pytest.raises(CheckpointError, match=r"the T5 folder .* does not exist"):
        find_parts(tmp_path)
    (tmp_path / "t5-v1_1-xxl").mkdir()
    parts, config = find_parts(tmp_path)
    assert parts.text == tmp_path / "t5-v1_1-xxl" and config == MODEL
    other = tmp_path / "elsewhere"
    other.mkdir()
    assert find_parts(tmp_path, text=other)[0].text == other


def test_tensors_only(tmp_path: Path) -> None:
    path = tmp_path / "states.pt"
    with pytest.raises(CheckpointError, match="does not exist"):
        checkpoint.read_tensors(path, "module")
    torch.save({"module": {"a": torch.arange(3)}}, path)
    assert checkpoint.read_tensors(path, "module")["a"].tolist() == [0, 1, 2]
    with pytest.raises(CheckpointError, match="no tensors under 'state_dict'"):
        checkpoint.read_tensors(path, "state_dict")
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"version https://git-lfs.github.com/spec/v1\n"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            checkpoint.read_tensors(path, "module")
    for content in ({"module": {"a": Evil()}}, [1, 2], {"module": {"a": 1}}):
        torch.save(content, path)
        with pytest.raises(CheckpointError):
            checkpoint.read_tensors(path, "module")
    path.write_bytes(pickle.dumps({"module": Evil()}))
    with pytest.raises(CheckpointError):
        checkpoint.read_tensors(path, "module")
    assert MADE == []


def test_the_latest_iteration(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="latest does not exist"):
        checkpoint.model_states_path(tmp_path)
    (tmp_path / "latest").write_text("../../etc\n")
    with pytest.raises(CheckpointError, match="expected an iteration number"):
        checkpoint.model_states_path(tmp_path)
    (tmp_path / "latest").write_text("1000\n")
    expected = tmp_path / "1000" / "mp_rank_00_model_states.pt"
    assert checkpoint.model_states_path(tmp_path) == expected
    (tmp_path / "1000").mkdir()
    (tmp_path / "1000" / "mp_rank_01_model_states.pt").touch()
    with pytest.raises(Unsupported, match="model-parallel"):
        checkpoint.model_states_path(tmp_path)


def test_every_key_is_accounted_for() -> None:
    module = nn.Linear(2, 3)
    state = {"weight": torch.ones(3, 2, dtype=torch.bfloat16), "bias": torch.zeros(3)}
    checkpoint.load_exactly(module, state, "here")
    assert module.weight.dtype == torch.float32 and bool((module.weight == 1).all())
    checkpoint.load_exactly(module, {"weight": state["weight"]}, "here", optional={"bias"})
    with pytest.raises(CheckpointError, match="1 missing: bias; 1 unexpected: scale; 1 of another"):
        checkpoint.load_exactly(
            module, {"weight": torch.ones(2, 2), "scale": torch.ones(1)}, "here"
        )


def test_components_of_a_whole_engine() -> None:
    one = torch.ones(1)
    state = {
        "model.diffusion_model.time_embed.0.bias": one,
        "first_stage_model.encoder.conv_in.conv.bias": one,
        "first_stage_model.loss.discriminator.bias": one,
        "conditioner.embedders.0.transformer.shared.weight": one,
    }
    transformer, vae, text = checkpoint.split_components(state, Path("states.pt"))
    assert list(transformer) == ["time_embed.0.bias"]
    assert list(vae) == ["encoder.conv_in.conv.bias"]
    assert list(text) == ["shared.weight"]
    with pytest.raises(CheckpointError, match=r"1 keys of no known component: ema\.x"):
        checkpoint.split_components({"ema.x": one}, Path("states.pt"))
