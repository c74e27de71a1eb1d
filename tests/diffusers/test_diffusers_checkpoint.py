"""Checkpoints that are missing, damaged, incomplete or of another kind: each is named, none is run."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_renders import opened

from backends.base import Pipeline
from backends.errors import CheckpointError, MissingPrerequisite, Unsupported
from backends.micro import model_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a whole checkpoint, for a test to damage."""
    return Path(shutil.copytree(model_path("micro-5b"), tmp_path / "model"))


def _weights(folder: Path) -> Path:
    return folder / "transformer" / "diffusion_pytorch_model.safetensors"


def test_a_local_folder_opens(folder: Path) -> None:
    opened(str(folder)).close()


def test_a_missing_folder_is_named_with_what_was_expected() -> None:
    with pytest.raises(CheckpointError, match=r"did you mean 'micro-5b'.*local folder"):
        opened("micro-5")


def test_a_file_is_no_folder(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model_index\.json"):
        opened(str(_weights(folder)))


def test_a_folder_without_an_index(folder: Path) -> None:
    (folder / "model_index.json").unlink()
    with pytest.raises(CheckpointError, match=r"no model_index\.json"):
        opened(str(folder))


def test_an_index_that_is_not_json(folder: Path) -> None:
    (folder / "model_index.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        opened(str(folder))


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("CogVideoXImageToVideoPipeline", CheckpointError, "takes 16 channels"),
        ("WanPipeline", Unsupported, "CogVideoXPipeline"),
    ],
)
def test_a_model_of_another_kind(
    folder: Path, name: str, error: type[Exception], words: str
) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = name
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(error, match=words):
        opened(str(folder))


@pytest.mark.parametrize("component", ["transformer", "text_encoder", "vae"])
def test_truncated_weights(folder: Path, component: str) -> None:
    file = next((folder / component).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="does not load"):
        opened(str(folder))


def test_weights_that_are_no_safetensors(folder: Path) -> None:
    _weights(folder).write_bytes(b"not a safetensors file at all")
    with pytest.raises(CheckpointError, match="does not load"):
        opened(str(folder))


def test_pickled_weights_are_not_read(folder: Path) -> None:
    tensors = load_file(_weights(folder))
    _weights(folder).unlink()
    torch.save(tensors, folder / "transformer" / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="does not load"):
        opened(str(folder))


@pytest.mark.parametrize(
    ("component", "name"),
    [
        ("transformer", "proj_out.weight"),
        ("vae", "decoder.conv_in.conv.weight"),
        ("text_encoder", "encoder.block.0.layer.0.SelfAttention.q.weight"),
    ],
)
def test_a_missing_tensor_is_not_made_up(folder: Path, component: str, name: str) -> None:
    file = next((folder / component).glob("*.safetensors"))
    tensors = load_file(file)
    del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"lacks 1 of .*{name}"):
        opened(str(folder))


def test_a_tensor_of_another_shape(folder: Path) -> None:
    tensors = load_file(_weights(folder))
    tensors["proj_out.weight"] = tensors["proj_out.weight"][:-1].contiguous()
    save_file(tensors, _weights(folder), metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"proj_out\.weight has shape"):
        opened(str(folder))


def test_surplus_tensors_are_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = load_file(_weights(folder)) | {"lora.weight": torch.ones(1)}
    save_file(tensors, _weights(folder), metadata={"format": "pt"})
    opened(str(folder)).close()
    assert "lora.weight" in caplog.text


def test_a_hub_model_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingPrerequisite, match="hf download nobody/nothing"):
        opened("nobody/nothing")


def _digests(pipeline: Pipeline) -> dict[str, str]:
    found = pipeline.identity().weights
    pipeline.close()
    return found


@pytest.mark.parametrize("inside", ["", "transformer"])
def test_a_transformer_from_another_folder(folder: Path, inside: str) -> None:
    own = _digests(opened())
    tensors = load_file(_weights(folder))
    tensors["proj_out.bias"] += 1
    save_file(tensors, _weights(folder), metadata={"format": "pt"})
    other = _digests(opened("micro-5b", transformer=str(folder / inside)))
    changed = {name for name in own if own[name] != other[name]}
    assert changed == {"transformer.proj_out.bias"}


def test_a_checkpoint_in_place_of_the_cases_model() -> None:
    """What a pair of conversions is compared with: the case's model stays the same for both."""
    assert _digests(opened("micro-2b", checkpoint="micro-5b")) == _digests(opened("micro-5b"))


def test_a_transformer_that_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        opened(transformer=str(tmp_path))
    with pytest.raises(CheckpointError, match="takes 32 channels"):
        opened(transformer=str(model_path("micro-1.5-5b-i2v")))


def test_pickled_weights_are_read_on_request_only(folder: Path) -> None:
    own = _digests(opened())
    for file in folder.rglob("*.safetensors"):
        name = "pytorch_model" if file.stem == "model" else file.stem
        torch.save(load_file(file), file.with_name(f"{name}.bin"))
        file.unlink()
    assert _digests(opened(str(folder), use_safetensors=False)) == own
    with pytest.raises(CheckpointError, match="does not load"):
        opened(str(folder))
