"""Two folders that exist: nothing changed is proven, and each planted fault is found by its name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import (
    Tensors,
    altered,
    averaged,
    rewrite,
    save_tiny,
    through_bf16,
    through_bf16_and_back,
    weight_files,
)

from backends.errors import InvalidRequest
from backends.roundtrip.check import RoundTrip, check

Damage = Callable[[Tensors], Tensors]


def compared(before: Path, after: Path, model: Path | None = None) -> dict[str, Any]:
    asked = RoundTrip(
        model=None if model is None else str(model),
        before=str(before),
        after=str(after),
        device="cpu",
    )
    return check(asked)


def kinds(result: dict[str, Any]) -> set[str]:
    return {change["kind"] for change in result["weights"]}


def test_a_copy_of_a_model_is_unchanged(model: Path, tmp_path: Path) -> None:
    result = compared(model, altered(model, tmp_path / "after", lambda tensors: tensors))
    assert result["outcome"] == "unchanged"
    assert result["weights"] == []
    assert result["function"]["bit_equal"] is True
    assert result["compared"] > 100


def test_a_transformer_saved_alone_leaves_the_rest_to_the_model(
    model: Path, tmp_path: Path
) -> None:
    after = tmp_path / "after"
    shutil.copytree(model / "transformer", after)
    result = compared(model, after)
    assert result["outcome"] == "unchanged", result
    assert result["function"]["bit_equal"] is True


@pytest.mark.parametrize("damage", [through_bf16, through_bf16_and_back])
def test_a_dtype_lost_on_the_way(model: Path, tmp_path: Path, damage: Damage) -> None:
    result = compared(model, altered(model, tmp_path / "after", damage))
    assert result["outcome"] == "changed"
    assert "rounded" in kinds(result)
    assert 1e-5 < result["function"]["rel_l2"] < 0.1


def test_a_prefix_with_which_nothing_loads(model: Path, tmp_path: Path) -> None:
    def renamed(tensors: Tensors) -> Tensors:
        return {f"module.{name}": tensor for name, tensor in tensors.items()}

    result = compared(model, altered(model, tmp_path / "after", renamed))
    assert result["outcome"] == "changed"
    assert kinds(result) == {"renamed"}
    assert result["function"]["computed"] is False
    assert result["function"]["why"].startswith("after: ")


def test_the_average_saved_in_place_of_the_weights(model: Path, tmp_path: Path) -> None:
    after = altered(model, tmp_path / "after", averaged)
    (file,) = weight_files(after)
    home = file.parent
    ema = home.with_name("1-ema") if model.name == "sat" else home.with_name("transformer_ema")
    rewrite(file, ema / file.name, lambda tensors: tensors)
    result = compared(model, after)
    assert result["outcome"] == "changed"
    assert kinds(result) == {"values", "copy"}
    (copy,) = [change for change in result["weights"] if change["kind"] == "copy"]
    assert ema.name in copy["detail"]
    assert result["function"]["rel_l2"] > 0.01


def test_the_master_copy_saved_in_place_of_the_weights(model: Path, tmp_path: Path) -> None:
    before = altered(model, tmp_path / "before", through_bf16)
    result = compared(before, altered(model, tmp_path / "after", lambda tensors: tensors))
    assert result["outcome"] == "changed"
    assert {"dtype", "unrounded"} <= kinds(result)


def test_learned_positions_that_were_not_saved(tmp_path: Path) -> None:
    """As where only parameters are collected: the learned table is a buffer in Diffusers."""
    model = save_tiny(tmp_path / "model", use_learned_positional_embeddings=True)
    name = "patch_embed.pos_embedding"

    def without(tensors: Tensors) -> Tensors:
        return {key: tensor for key, tensor in tensors.items() if key != name}

    result = compared(model, altered(model, tmp_path / "after", without))
    assert result["outcome"] == "changed"
    (change,) = result["weights"]
    assert (change["kind"], change["names"]) == ("missing", (f"transformer/{name}",))
    assert "pos_embedding" in result["function"]["why"]

    def zeroed(tensors: Tensors) -> Tensors:
        return tensors | {name: torch.zeros_like(tensors[name])}

    result = compared(model, altered(model, tmp_path / "zeroed", zeroed))
    assert result["weights"][0]["names"] == (f"transformer/{name}",)
    assert result["function"]["rel_l2"] > 1e-3


def test_a_config_that_changed(diffusers_model: Path, tmp_path: Path) -> None:
    after = altered(diffusers_model, tmp_path / "after", lambda tensors: tensors)
    file = after / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"norm_eps": 1e-2}))
    result = compared(diffusers_model, after)
    assert result["outcome"] == "changed"
    assert [c["names"] for c in result["weights"]] == [("transformer.norm_eps",)]
    assert result["function"]["bit_equal"] is False


def test_a_copy_of_a_lora_is_unchanged(model: Path, lora: Path, tmp_path: Path) -> None:
    result = compared(lora, altered(lora, tmp_path / "after", lambda tensors: tensors), model)
    assert result["outcome"] == "unchanged", result
    assert result["function"]["bit_equal"] is True


def lora_dtype(tensors: Tensors) -> Tensors:
    return {name: t.to(torch.bfloat16) for name, t in tensors.items()}


def lora_prefix(tensors: Tensors) -> Tensors:
    """What CogVideo's export_sat_lora_weight.py does, and what a wrapper does in SAT."""
    cut = ("transformer.", "model.diffusion_model.")
    return {n.removeprefix(cut[0]).removeprefix(cut[1]): t for n, t in tensors.items()}


def lora_divided_by_rank(tensors: Tensors) -> Tensors:
    return {n: t / 4 if "lora_B" in n or "matrix_B" in n else t for n, t in tensors.items()}


@pytest.mark.parametrize(
    ("damage", "kind"),
    [(lora_dtype, "rounded"), (lora_prefix, "renamed"), (lora_divided_by_rank, "values")],
)
def test_faults_in_the_matrices_of_a_lora(
    model: Path, lora: Path, tmp_path: Path, damage: Damage, kind: str
) -> None:
    result = compared(lora, altered(lora, tmp_path / "after", damage), model)
    assert result["outcome"] == "changed"
    assert kind in kinds(result)
    if kind == "values":
        assert any("before times 0.25" in change["detail"] for change in result["weights"])
    if kind == "renamed":
        assert result["function"]["computed"] is False
    else:
        assert result["function"]["bit_equal"] is False


@pytest.mark.parametrize(("alpha", "factor"), [(1, 0.25), (None, None)])
def test_the_scale_of_a_lora_lost(
    model: Path, lora: Path, tmp_path: Path, alpha: int | None, factor: float | None
) -> None:
    """Alpha as SAT has it by default, or nothing said: then 1/rank in SAT and 1 in Diffusers."""
    from loras import header, lora_tensors, sat_lora, sat_yaml, save_lora

    after, tensors = tmp_path / "after", lora_tensors(size=0.3)
    if model.name == "sat":
        sat_lora(after, tensors, None if alpha is None else sat_yaml(r=4, lora_alpha=alpha))
    else:
        save_lora(after, tensors, None if alpha is None else header(r=4, lora_alpha=alpha))
    result = compared(lora, after, model)
    assert result["outcome"] == "changed"
    (change,) = result["weights"]
    expected = factor or (0.25 if model.name == "sat" else 1.0)
    assert change["names"] == ("lora.factor",)
    assert change["detail"] == f"0.5 became {expected}"
    assert result["function"]["bit_equal"] is False


def test_what_cannot_be_compared(
    diffusers_model: Path, sat_model: Path, lora: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest, match="parity audit"):
        compared(diffusers_model, sat_model)
    after = altered(lora, tmp_path / "after", lambda tensors: tensors)
    result = compared(lora, after)
    assert result["outcome"] == "undecided"
    assert "as MODEL" in result["function"]["why"]
