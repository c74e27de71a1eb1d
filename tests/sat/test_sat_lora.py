"""A LoRA on SAT: the same as SAT's own `LoraMixin` with the same checkpoint, live and merged."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_sat import ROTARY, relative, scramble

sys.path.append(str(Path(__file__).parents[1] / "checkpoints"))

from loras import LAYERS, header, lora_tensors, sat_lora, sat_yaml, save_lora

from backends.errors import CheckpointError, Unsupported
from backends.sat.lora import attach_lora, sat_lora_settings, split_lora
from backends.sat.stack import lora_layers, unchanged_process
from backends.sat.transformer import DiffusionTransformer

WIDTH = ROTARY.hidden_size


@pytest.fixture(scope="module")
def model() -> DiffusionTransformer:
    with unchanged_process():
        built = DiffusionTransformer(ROTARY, torch.float32).eval().requires_grad_(False)
    scramble(built)
    return built


def output(model: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 3, 4, 4, 6, generator=generator)
    text = torch.randn(1, 5, 16, generator=generator)
    with torch.no_grad():
        return model(latents, torch.tensor([500]), text)


def attached(
    model: DiffusionTransformer, lora: Path, mode: str = "live", scale: float = 1.0
) -> Any:
    """A copy of `model` with the LoRA, and its settings."""
    own = copy.deepcopy(model)
    fused = attach_lora(own, ROTARY, str(lora), scale, mode, "the test")
    return own, sat_lora_settings(own, ROTARY, fused)


def with_mixin(model: DiffusionTransformer, file: Path, **params: Any) -> Any:
    """The model as SAT's user has it: the mixin from the YAML, the checkpoint loaded over it."""
    own = copy.deepcopy(model)
    with unchanged_process():
        mixin = lora_layers().LoraMixin(ROTARY.num_layers, **params)
        own.add_mixin("lora", mixin, reinit=True)
    state = torch.load(file, weights_only=True)["module"]
    matrices = {k.removeprefix("model.diffusion_model."): v for k, v in state.items()}
    own.load_state_dict({k: v for k, v in matrices.items() if "matrix" in k}, strict=False)
    return own


def test_equal_to_the_mixin_of_sat_live_and_merged(
    model: DiffusionTransformer, tmp_path: Path
) -> None:
    tensors = lora_tensors(WIDTH, size=0.2)
    folder = sat_lora(tmp_path, tensors, sat_yaml(r=4, lora_alpha=2))
    theirs = with_mixin(model, folder / "7" / "mp_rank_00_model_states.pt", r=4, lora_alpha=2)
    live, settings = attached(model, folder)
    assert torch.equal(output(live), output(theirs))
    assert relative(output(live), output(model)) > 0.05
    assert (settings["lora.rank"], settings["lora.scale"]) == (4, 0.5)
    theirs.get_mixin("lora").merge_lora()
    fused, settings = attached(model, folder, "fused")
    for name, tensor in fused.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name]), name
    assert relative(output(fused), output(live)) < 1e-5
    assert settings["lora.mode"] == "fused"


def test_the_state_splits_into_model_and_lora(model: DiffusionTransformer, tmp_path: Path) -> None:
    tensors = lora_tensors(WIDTH)
    own, _ = attached(model, save_lora(tmp_path, tensors))
    base, lora = split_lora(own.state_dict(), ROTARY)
    before = model.state_dict()
    assert base.keys() == before.keys()
    assert all(torch.equal(base[name], before[name]) for name in before)
    assert {f"transformer.{name}" for name in lora} == set(tensors)
    assert all(torch.equal(lora[n.removeprefix("transformer.")], t) for n, t in tensors.items())


def test_layers_and_parts_without_lora_and_other_ranks(
    model: DiffusionTransformer, tmp_path: Path
) -> None:
    tensors = lora_tensors(WIDTH, blocks=(1,), layers=("attn1.to_q",), size=0.2)
    tensors |= lora_tensors(WIDTH, blocks=(1,), layers=("attn1.to_v",), rank=2, size=0.2)
    metadata = header(r=4, lora_alpha=4, rank_pattern={"to_v": 2}, alpha_pattern={"to_v": 2})
    folder = save_lora(tmp_path, tensors, metadata)
    live, settings = attached(model, folder, scale=0.5)
    fused, _ = attached(model, folder, "fused", scale=0.5)
    assert relative(output(fused), output(live)) < 1e-5
    assert relative(output(live), output(model)) > 1e-3
    assert settings["lora.layers"] == 2
    assert settings["lora.scale"] == 0.5
    _, lora = split_lora(live.state_dict(), ROTARY)
    assert {f"transformer.{name}" for name in lora} == set(tensors)


def test_what_a_lora_layer_cannot_hold_can_be_fused(
    model: DiffusionTransformer, tmp_path: Path
) -> None:
    factors = header(r=4, lora_alpha=4, alpha_pattern={"to_v": 2})
    mixed = save_lora(tmp_path / "mixed", lora_tensors(WIDTH, layers=LAYERS[:3]), factors)
    with pytest.raises(Unsupported, match=r"different factors.*lora_mode=fused"):
        attached(model, mixed)
    name = "transformer.transformer_blocks.0.norm1.linear"
    rows = 6 * WIDTH
    norm = save_lora(
        tmp_path / "norm",
        {f"{name}.lora_A.weight": torch.ones(1, 48), f"{name}.lora_B.weight": torch.ones(rows, 1)},
    )
    with pytest.raises(Unsupported, match=r"norm1\.linear.*lora_mode=fused"):
        attached(model, norm)
    own, _ = attached(model, norm, "fused")
    key = "mixins.adaln_layer.adaLN_modulations.0.1.weight"
    moved = (own.state_dict()[key] - model.state_dict()[key]).round().unflatten(0, (12, -1))
    assert [float(part.mean()) for part in moved] == [1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0]
    assert attached(model, mixed, "fused")[1]["lora.mode"] == "fused"


def test_a_lora_of_another_model_is_refused_by_name(
    model: DiffusionTransformer, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"4 of its 8 layers are not in .*blocks\.2\.attn1"):
        attached(model, sat_lora(tmp_path / "a", lora_tensors(WIDTH, blocks=(1, 2))))
    with pytest.raises(CheckpointError, match=r"8 of its 8 .*another size.*32x32 for 64x64"):
        attached(model, save_lora(tmp_path / "b", lora_tensors(32)))
