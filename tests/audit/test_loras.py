"""Every fault of kind `lora` in the catalogue is named: in the file, against the model, and fused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from audit_models import Model, State
from safetensors.torch import save_file
from torch import Tensor

from harness.audit import audit
from harness.audit.records import AuditReport

LAYERS = [f"transformer_blocks.{i}.attn1.{part}" for i in (0, 1) for part in
          ("to_q", "to_k", "to_v", "to_out.0")]  # fmt: skip
RANK = 8


def matrices(ranks: Callable[[str], int] = lambda layer: RANK) -> State:
    generator = torch.Generator().manual_seed(11)
    state: State = {}
    for layer in LAYERS:
        name, rank = f"transformer.{layer}", ranks(layer)
        state[f"{name}.lora_A.weight"] = torch.randn(rank, 128, generator=generator) * 0.2
        state[f"{name}.lora_B.weight"] = torch.randn(128, rank, generator=generator) * 0.05
    return state


def mixed(layer: str) -> int:
    return 4 if layer.endswith("to_v") else RANK


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    return saved(matrices(), tmp_path / "lora.safetensors")


def saved(state: State, path: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


def fuse(
    broken: Model, state: State, how: Callable[[Tensor, int], Tensor], dtype: torch.dtype
) -> Model:
    """Add `how(product, rank)` to every layer, stored in `dtype` throughout."""

    def change(weights: State) -> None:
        for layer in LAYERS:
            down, up = (state[f"transformer.{layer}.lora_{m}.weight"] for m in "AB")
            name = f"{layer}.weight"
            weights[name] = (weights[name].float() + how(up @ down, down.shape[0])).to(dtype)

    return broken.edit(change)


def half(state: State) -> None:
    state.update({name: tensor.bfloat16() for name, tensor in state.items()})


FUSED = {
    "L01_one_over_rank": (lambda d, r: d / r, "the LoRA times 0.125 (1 / rank)", "scale"),
    "L04_transposed": (lambda d, r: d.t(), "(B A)^T", "transposed"),
    "L06_L10_not_applied": (lambda d, r: d * 0, "was not applied", "not_applied"),
    "twice": (lambda d, r: d * 2, "the LoRA times 2 (twice)", "scale"),
    "another_lora": (lambda d, r: d.roll(1, 0), "something else than the LoRA", "other"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FUSED)
def test_a_fault_of_fusing_is_named(
    name: str, dtype: torch.dtype, model: Model, broken: Model, tmp_path: Path, lora: Path
) -> None:
    how, says, named = FUSED[name]
    base = model.copy(tmp_path / "base")
    if dtype == torch.bfloat16:
        base.edit(half)
        broken.edit(half)
    fuse(broken, matrices(), how, dtype)
    report = audited(base, broken, lora)
    (finding,) = [f for f in report.findings if f.kind == "lora"]
    assert says in finding.detail and finding.name == named, report.findings
    assert "8 of 8 layers" in finding.detail and report.exit_code == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lora_fused_as_intended_is_accepted(
    dtype: torch.dtype, model: Model, broken: Model, tmp_path: Path, lora: Path
) -> None:
    base = model.copy(tmp_path / "base")
    if dtype == torch.bfloat16:
        base.edit(half)
        broken.edit(half)
    report = audited(base, fuse(broken, matrices(), lambda d, r: d, dtype), lora)
    assert report.findings == [] and report.exit_code == 0
    assert report.headline.startswith("AS INTENDED: the LoRA is fused into 8 tensors")


def audited(base: Model, fused: Model, lora: Path) -> AuditReport:
    return audit(base.folder / "transformer", fused.folder / "transformer", lora=lora)


def test_mixed_ranks_without_alpha(model: Model, broken: Model, tmp_path: Path) -> None:
    """L03: the first rank taken as alpha for every layer."""
    state = matrices(mixed)
    file = saved(state, tmp_path / "mixed.safetensors")
    report = audit(model.folder / "transformer", file)
    (finding,) = report.findings
    assert finding.name == "alpha" and "ranks 4, 8 and no alpha for 8 layers" in finding.detail
    fuse(broken, state, lambda d, r: d * RANK / r, torch.float32)
    said = [f.detail for f in audited(model, broken, file).findings if f.name == "scale"]
    assert (
        len(said) == 1 and "2 of 8 layers hold the LoRA times 2 (first rank / own rank)" in said[0]
    )
    with_alpha = state | {f"transformer.{n}.alpha": torch.tensor(8.0) for n in LAYERS}
    assert audit(model.folder / "transformer", saved(with_alpha, file)).exit_code == 0


@pytest.mark.parametrize("prefix", ["", "lora_unet_", "transformer.other."])
def test_keys_that_match_nothing(prefix: str, model: Model, tmp_path: Path) -> None:
    """L06: the file loads as a silent no-op."""
    state = {prefix + name.removeprefix("transformer."): t for name, t in matrices().items()}
    report = audit(model.folder / "transformer", saved(state, tmp_path / "lora.safetensors"))
    assert report.exit_code == 1
    said = " ".join(finding.detail for finding in report.findings)
    assert "prefix `transformer.`" in said or "none of its layers is in the model" in said


def test_a_lora_that_fits(model: Model, lora: Path) -> None:
    report = audit(model.folder, lora)
    assert report.exit_code == 0 and report.headline.startswith("FITS: every one of the LoRA's 8")


def test_two_lora_files(tmp_path: Path, lora: Path) -> None:
    def other(change: Callable[[State], None]) -> AuditReport:
        state = {name: tensor.clone() for name, tensor in matrices().items()}
        change(state)
        return audit(lora, saved(state, tmp_path / "other.safetensors"))

    def alpha_one(state: State) -> None:
        state.update({f"transformer.{n}.alpha": torch.tensor(1.0) for n in LAYERS})

    def transposed(state: State) -> None:
        for layer in LAYERS:
            a, b = (f"transformer.{layer}.lora_{m}.weight" for m in "AB")
            state[a], state[b] = state[b].t(), state[a].t()

    assert other(lambda state: None).exit_code == 0
    (finding,) = other(alpha_one).findings
    assert "times 0.125 (1 / rank)" in finding.detail and finding.name == "scale"
    (finding,) = other(transposed).findings
    assert "8 of 8 layers add the reference's product transposed" in finding.detail


def test_the_two_formats_of_one_lora_differ_in_alpha_alone(tmp_path: Path, lora: Path) -> None:
    """SAT takes alpha as 1 where nothing is said, Diffusers as the rank."""
    places = {"to_q": "query_key_value.{}.0", "to_k": "query_key_value.{}.1",
              "to_v": "query_key_value.{}.2", "to_out": "dense.{}.0"}  # fmt: skip
    module: State = {}
    for name, tensor in matrices().items():
        parts = name.split(".")
        place = places[parts[4]].format("matrix_A" if "lora_A" in name else "matrix_B")
        module[f"model.diffusion_model.transformer.layers.{parts[2]}.attention.{place}"] = tensor
    torch.save({"module": module}, tmp_path / "mp_rank_00_model_states.pt")
    (finding,) = audit(lora, tmp_path / "mp_rank_00_model_states.pt").findings
    assert "times 0.125 (1 / rank)" in finding.detail


def test_what_fusing_and_unfusing_leaves_behind(
    model: Model, broken: Model, tmp_path: Path
) -> None:
    """L11: W = bf16(bf16(W + D) - D); nothing but rounding, and only where LoRA works."""
    base = model.copy(tmp_path / "base").edit(half)
    broken.edit(half)
    fuse(broken, matrices(), lambda d, r: d, torch.bfloat16)
    fuse(broken, matrices(), lambda d, r: -d, torch.bfloat16)
    (finding,) = audit(base.folder / "transformer", broken.folder / "transformer").findings
    assert "fusing a LoRA and taking it out again leaves behind" in finding.detail


def test_a_fused_lora_is_recognised_without_its_file(model: Model, broken: Model) -> None:
    fuse(broken, matrices(), lambda d, r: 0.25 * d, torch.float32)
    (finding,) = audit(model.folder / "transformer", broken.folder / "transformer").findings
    assert "a LoRA of rank about" in finding.detail and "in all 2 blocks" in finding.detail


def test_a_strength_that_was_ignored(model: Model, broken: Model, lora: Path) -> None:
    """L08: fused at strength 1 although 0.5 was asked for."""
    fuse(broken, matrices(), lambda d, r: d, torch.float32)
    parts = model.folder / "transformer", broken.folder / "transformer"
    (finding,) = audit(*parts, lora=lora, lora_scale=0.5).findings
    assert finding.name == "scale"
    assert "8 of 8 layers hold the LoRA times 2 (the strength 0.5 left out)" in finding.detail
    assert audit(*parts, lora=lora, lora_scale=1.0).exit_code == 0


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_lora_that_was_cast_to_eight_bits(
    dtype: torch.dtype, model: Model, tmp_path: Path, lora: Path
) -> None:
    """L09: cast with the base model."""
    state = {name: tensor.to(dtype).float() for name, tensor in matrices().items()}
    file = saved(state, tmp_path / "eight.safetensors")
    name = str(dtype).removeprefix("torch.")
    for reference in (model.folder / "transformer", lora):
        said = [f.detail for f in audit(reference, file).findings if f.name == "values"]
        assert f"8 layers were rounded to {name}" in said[0]


def test_a_lora_that_is_not_finite(model: Model, tmp_path: Path) -> None:
    """L09: what becomes of the largest values in eight bits."""
    state = matrices()
    state[f"transformer.{LAYERS[2]}.lora_B.weight"][0, 0] = float("inf")
    report = audit(model.folder / "transformer", saved(state, tmp_path / "lora.safetensors"))
    (finding,) = report.findings
    assert f"1 layer hold NaN or infinity: {LAYERS[2]}" in finding.detail


def test_what_a_loader_refuses_an_audit_reports(model: Model, tmp_path: Path) -> None:
    from backends.checkpoints import open_lora
    from backends.errors import BackendError

    state = matrices()
    halved = {name: t for name, t in state.items() if "0.attn1.to_q.lora_B" not in name}
    misshapen = state | {f"transformer.{LAYERS[0]}.lora_A.weight": torch.ones(3, 128)}
    rank = json.dumps({"transformer.r": 16, "transformer.lora_alpha": 16})
    for number, (tensors, header) in enumerate(
        [(halved, None), (misshapen, None), (state, rank), (state, "{}")]
    ):
        file = tmp_path / f"{number}.safetensors"
        metadata = {"format": "pt"} | ({"lora_adapter_metadata": header} if header else {})
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata)
        with pytest.raises(BackendError) as refused:
            open_lora(file)
        report = audit(model.folder / "transformer", file)
        said = [finding.detail for finding in report.findings if finding.name == "file"]
        assert any(str(refused.value) in one for one in said) and report.exit_code == 1
