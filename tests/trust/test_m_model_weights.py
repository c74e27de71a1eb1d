"""Kind M: weights that are no weights, and tokenizers that are not the text encoder's, never pass.

Whole numbers where weights are expected are known from a file's header; what is not finite is found
where every weight is digested, so also where no case ever reaches it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_folders import PARTS, change_settings, check, config_file, copied
from safetensors.torch import load_file, save_file

from backends.base import NOT_FINITE
from backends.checkpoints import convert
from backends.diffusers.adapter import DiffusersBackend
from backends.errors import BackendError, CheckpointError
from backends.micro import checkpoint_path
from backends.sat.adapter import SatBackend
from harness.judge.decide import decide
from harness.judge.exact import not_finite
from harness.records import PipelineRecord


def _weights(folder: Path, component: str) -> Path:
    return next((folder / component).glob("*.safetensors"))


def _change(file: Path, change: Callable[[torch.Tensor], torch.Tensor], name: str) -> None:
    tensors = load_file(file)
    tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, file, metadata={"format": "pt"})


LAYER = {
    "transformer": "transformer_blocks.1.attn1.to_q.weight",
    "vae": "encoder.conv_in.conv.weight",
    "text_encoder": "encoder.block.0.layer.0.SelfAttention.q.weight",
}


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.bool])
@pytest.mark.parametrize("component", PARTS)
def test_whole_numbers_for_weights(component: str, dtype: torch.dtype, tmp_path: Path) -> None:
    folder = copied("micro-2b", tmp_path / "model")
    _change(_weights(folder, component), lambda t: (100 * t).to(dtype), LAYER[component])
    with pytest.raises(CheckpointError, match=f"{re.escape(LAYER[component])} is stored as"):
        check(folder)
    with pytest.raises(BackendError):
        SatBackend().open(str(folder), {"device": "cpu"})


def test_whole_numbers_in_a_torch_file(tmp_path: Path) -> None:
    folder = copied("micro-2b", tmp_path / "model")
    for component, name in zip(
        PARTS, ("pytorch_model", *["diffusion_pytorch_model"] * 2), strict=True
    ):
        file = _weights(folder, component)
        tensors = load_file(file)
        if component == "vae":
            tensors[LAYER["vae"]] = (100 * tensors[LAYER["vae"]]).to(torch.int8)
        torch.save(tensors, file.with_name(f"{name}.bin"))
        file.unlink()
    with pytest.raises(CheckpointError, match=f"{re.escape(LAYER['vae'])} is stored as int8"):
        DiffusersBackend().open(str(folder), {"device": "cpu", "use_safetensors": False})


def test_eight_bits_whose_scale_would_be_left_out(tmp_path: Path) -> None:
    folder = copied("micro-5b", tmp_path / "model")
    file, name = _weights(folder, "transformer"), LAYER["transformer"]
    _change(file, lambda t: t.to(torch.float8_e4m3fn), name)
    check(folder)
    scale = {name.replace(".weight", ".weight_scale"): torch.ones(1)}
    save_file(load_file(file) | scale, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"float8_e4m3fn beside its scale .*weight_scale"):
        check(folder)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("component", PARTS)
@pytest.mark.parametrize("backend", [DiffusersBackend, SatBackend])
def test_weights_that_are_not_finite(
    backend: Callable[[], Any], component: str, value: float, tmp_path: Path
) -> None:
    """Also where no case of this model ever reaches them: a text-to-video model's encoder of the VAE."""
    folder = copied("micro-2b", tmp_path / "model")
    _change(
        _weights(folder, component),
        lambda t: t.index_fill(0, torch.tensor([1]), value),
        LAYER[component],
    )
    pipeline = backend().open(str(folder), {"device": "cpu"})
    weights = pipeline.identity().weights
    pipeline.close()
    wrong = [name for name, digest in weights.items() if digest.startswith(NOT_FINITE)]
    assert wrong == [f"{component}.{LAYER[component]}"]
    record = PipelineRecord(weights=weights, dtypes={}, configs={}, policies={})
    (said,) = not_finite("candidate", record)
    assert wrong[0] in said and f"1 of {len(weights)} weight tensors are not finite" in said
    assert decide([said], [], [], [], None, probed=True)[0] == "broken"


@pytest.mark.parametrize(
    ("vocabulary", "says"), [(147, "token 147"), (400, "148 tokens"), (32128, "148 tokens")]
)
def test_a_tokenizer_of_another_vocabulary(vocabulary: int, says: str, tmp_path: Path) -> None:
    folder = copied("micro-2b", tmp_path / "model")
    change_settings(config_file(folder, "text_encoder"), vocab_size=vocabulary)
    _change(
        _weights(folder, "text_encoder"),
        lambda t: t.repeat(-(-vocabulary // 148), 1)[:vocabulary],
        "shared.weight",
    )
    for backend in (DiffusersBackend(), SatBackend()):
        with pytest.raises(CheckpointError, match=f"tokenizer in .* has {says}"):
            backend.open(str(folder), {"device": "cpu"})


def _without(content: dict[str, Any], token: str) -> None:
    content["model"]["vocab"] = [
        [w if w != token else "<gone>", s] for w, s in content["model"]["vocab"]
    ]
    content["added_tokens"] = [a for a in content["added_tokens"] if a["content"] != token]


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("tokenizer.json", lambda c: c.clear(), "does not load"),
        ("tokenizer.json", lambda c: c.update(model={}), "does not load"),
        ("tokenizer.json", lambda c: _without(c, "</s>"), "has token 148"),
        (
            "tokenizer.json",
            lambda c: c["model"]["vocab"].extend([f"w{n}", -5.0] for n in range(50)),
            "has token 197",
        ),
        ("tokenizer_config.json", lambda c: c.update(eos_token=None), "does not load"),
        ("tokenizer_config.json", lambda c: c.update(pad_token=None), "has pad_token_id None"),
        ("tokenizer_config.json", lambda c: c.update(pad_token="</s>"), "has pad_token_id 1"),
        ("tokenizer_config.json", lambda c: c.update(extra_ids="x"), "does not load"),
    ],
)
def test_tokenizers_that_are_none(
    file: str, change: Callable[[Any], None], says: str, tmp_path: Path
) -> None:
    path = copied("micro-2b", tmp_path / "model") / "tokenizer" / file
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=f"tokenizer in .* {says}"):
        check(tmp_path / "model")


def test_whole_numbers_for_weights_of_a_sat_model(tmp_path: Path) -> None:
    convert(checkpoint_path("micro-2b"), tmp_path / "sat", "sat")
    file = tmp_path / "sat" / "vae" / "3d-vae.pt"
    content = torch.load(file, weights_only=True)
    name = next(n for n in content["state_dict"] if n.endswith("conv_in.conv.weight"))
    content["state_dict"][name] = (100 * content["state_dict"][name]).to(torch.int8)
    torch.save(content, file)
    with pytest.raises(CheckpointError, match=f"1 stored as integers.*{re.escape(name)} int8"):
        SatBackend().open(str(tmp_path / "sat"), {"device": "cpu"})
