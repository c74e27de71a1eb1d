"""A LoRA on Diffusers: in force in every placement, as its file says, and never silently not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_driving import case
from small_renders import opened

sys.path.append(str(Path(__file__).parents[1] / "checkpoints"))

from loras import header, lora_tensors, save_lora

from backends.base import Identity, Inputs
from backends.diffusers.adapter import DiffusersBackend
from backends.diffusers.options import PLACEMENTS
from backends.errors import CheckpointError, InvalidRequest, MissingPrerequisite
from backends.noise import standard_normal

CASE = case(32, model="micro-5b", sampler="dpm")
BLOCKS = (0, 1, 3, 4, 5)  # block 2 holds values of 2^18, which would drown everything else


def velocity(pipeline: Any) -> torch.Tensor:
    """One guided call on fixed inputs; no text encoder is involved."""
    text = torch.from_numpy(standard_normal(1, 0, (1, 24, 64)))
    run = pipeline.prepare(CASE, Inputs(text=text, negative_text=torch.zeros_like(text)))
    with torch.no_grad():
        return run.predict(torch.from_numpy(standard_normal(1, 1, run.latent_shape)), 1).velocity


def call(**options: Any) -> tuple[torch.Tensor, Identity]:
    pipeline = opened(**options)
    found = velocity(pipeline), pipeline.identity()
    pipeline.close()
    return found


def distance(came: torch.Tensor, expected: torch.Tensor) -> float:
    return float((came - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rank 4, alpha 2, in twenty layers."""
    tensors = lora_tensors(blocks=BLOCKS, size=0.1)
    return save_lora(tmp_path_factory.mktemp("lora"), tensors, header(r=4, lora_alpha=2))


@pytest.fixture(scope="module")
def plain() -> tuple[torch.Tensor, Identity]:
    return call()


@pytest.fixture(scope="module")
def live(lora: Path) -> Iterator[tuple[torch.Tensor, Identity]]:
    yield call(lora=str(lora))


@pytest.mark.parametrize("placement", [kind for kind in PLACEMENTS if kind != "full"])
def test_in_force_in_every_placement(
    lora: Path, live: tuple[torch.Tensor, Identity], placement: str
) -> None:
    came, identity = call(lora=str(lora), placement=placement)
    assert torch.equal(came, live[0])
    assert identity.weights == live[1].weights
    assert identity.configs["lora.scale"] == 0.5


def test_the_identity_shows_matrices_rank_and_factor(
    lora: Path, live: tuple[torch.Tensor, Identity], plain: tuple[torch.Tensor, Identity]
) -> None:
    settings = {k: v for k, v in live[1].configs.items() if k.startswith("lora.")}
    assert settings == {
        "lora.mode": "live", "lora.layers": 20, "lora.rank": 4, "lora.scale": 0.5,
    }  # fmt: skip
    added = set(live[1].weights) - set(plain[1].weights)
    assert added == set(lora_tensors(blocks=BLOCKS))
    assert {n: live[1].weights[n] for n in plain[1].weights} == plain[1].weights
    assert not [key for key in plain[1].configs if key.startswith("lora")]
    assert distance(live[0], plain[0]) > 0.02


def test_fused_equals_live_and_shows_in_the_weights(
    lora: Path, live: tuple[torch.Tensor, Identity], plain: tuple[torch.Tensor, Identity]
) -> None:
    came, identity = call(lora=str(lora), lora_mode="fused")
    assert 0 < distance(came, live[0]) < 1e-5
    changed = {n for n, d in plain[1].weights.items() if identity.weights[n] != d}
    layers = {n.partition(".lora_")[0] + ".weight" for n in lora_tensors(blocks=BLOCKS)}
    assert changed == layers
    assert identity.weights.keys() == plain[1].weights.keys()
    assert (identity.configs["lora.mode"], identity.configs["lora.scale"]) == ("fused", 0.5)


def test_the_scale_multiplies_and_zero_is_no_lora(
    lora: Path, plain: tuple[torch.Tensor, Identity], tmp_path: Path
) -> None:
    none, identity = call(lora=str(lora), lora_scale=0.0)
    assert torch.equal(none, plain[0])
    assert identity.configs["lora.scale"] == 0.0
    stronger = save_lora(tmp_path, lora_tensors(blocks=BLOCKS), header(r=4, lora_alpha=4))
    doubled, identity = call(lora=str(lora), lora_scale=2.0)
    assert torch.equal(doubled, call(lora=str(stronger))[0])
    assert identity.configs["lora.scale"] == 1.0


def test_mixed_ranks_and_alphas(tmp_path: Path) -> None:
    tensors = lora_tensors(blocks=BLOCKS, layers=("attn1.to_q", "ff.net.2"), width=128)
    tensors = {n: t for n, t in tensors.items() if "ff" not in n}
    tensors |= lora_tensors(blocks=BLOCKS, layers=("attn1.to_v",), rank=2)
    metadata = header(
        r=4, lora_alpha=4, rank_pattern={"to_v": 2}, alpha_pattern={"to_v": 6, "1.attn1.to_q": 1}
    )
    folder = str(save_lora(tmp_path / "lora", tensors, metadata))
    live, identity = call(lora=folder)
    fused, _ = call(lora=folder, lora_mode="fused")
    assert distance(fused, live) < 1e-5
    block = "transformer.transformer_blocks.1.attn1"
    assert identity.configs["lora.rank"][f"{block}.to_v"] == 2
    assert identity.configs["lora.scale"][f"{block}.to_v"] == 3.0
    assert identity.configs["lora.scale"][f"{block}.to_q"] == 0.25


def test_a_switched_off_adapter_shows(lora: Path) -> None:
    pipeline: Any = opened(lora=str(lora))
    pipeline.native().disable_lora()
    assert pipeline.identity().configs["lora.scale"] == 0.0
    pipeline.close()


def test_a_lora_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    deeper = save_lora(tmp_path / "deeper", lora_tensors(blocks=(5, 6)))
    with pytest.raises(CheckpointError, match=r"4 of its 8 layers are not in .*blocks\.6\.attn1"):
        opened(lora=str(deeper))
    wider = save_lora(tmp_path / "wider", lora_tensors(width=64))
    with pytest.raises(CheckpointError, match=r"8 of its 8 .*another size.*64x64 for 128x128"):
        opened(lora=str(wider))


def test_a_lora_that_diffusers_did_not_apply_is_an_error(
    lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reason: what is in force is compared with the file."""
    from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel

    load = CogVideoXTransformer3DModel.load_lora_adapter

    def without_metadata(self: Any, *args: Any, **kwargs: Any) -> None:
        load(self, *args, **(kwargs | {"metadata": None}))

    monkeypatch.setattr(CogVideoXTransformer3DModel, "load_lora_adapter", without_metadata)
    with pytest.raises(
        CheckpointError, match=r"20 tensors or factors.*factor 1, the file says 0.5"
    ):
        opened(lora=str(lora))
    monkeypatch.setattr(CogVideoXPipeline, "load_lora_weights", lambda *a, **k: None)
    with pytest.raises(CheckpointError, match="to 0 layers, the file has 20"):
        opened(lora=str(lora))


def test_mistakes_in_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    check = DiffusersBackend().check
    with pytest.raises(InvalidRequest, match="without a LoRA"):
        check({"lora_scale": 0.5})
    with pytest.raises(InvalidRequest, match="expected one of live, fused"):
        check({"lora": "x", "lora_mode": "merged"})
    for scale in ("1", True, float("nan")):
        with pytest.raises(InvalidRequest, match="finite number"):
            check({"lora": "x", "lora_scale": scale})
    with pytest.raises(CheckpointError, match="no LoRA at"):
        opened(lora="/nowhere")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingPrerequisite, match="pip install peft"):
        check({"lora": "x", "device": "cpu"})
