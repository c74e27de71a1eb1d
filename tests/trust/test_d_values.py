"""Kind D: what is wrong inside a tensor is said by name: damage, and the scales of eight-bit weights.

Damaged and re-exported copies of one micro model's transformer: every kind of damage in every dtype,
every naming of scales right, wrong, dropped and ignored. A fine-tuned copy stays what it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from backends.micro import model_path
from harness.audit import audit
from harness.audit.records import AuditReport

State = dict[str, Tensor]
NAME = "transformer_blocks.1.ff.net.0.proj.weight"
FP8 = torch.float8_e4m3fn


@pytest.fixture(scope="module")
def weights() -> State:
    return load_file(model_path("micro-2b") / "transformer" / "diffusion_pytorch_model.safetensors")


@pytest.fixture
def audited(tmp_path: Path) -> Callable[..., AuditReport]:
    """Audit two states of a transformer against each other."""

    def compare(a: State, b: State, dtype: str | None = None) -> AuditReport:
        files = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
        for file, state in zip(files, (a, b), strict=True):
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
        return audit(*files, dtype=dtype)

    return compare


def spoiled(
    weights: State, spoil: Callable[[Tensor], None], dtype: torch.dtype
) -> tuple[State, State]:
    """The weights in `dtype`, and a copy in which `spoil` changed the bytes of one tensor."""
    a = {name: tensor.to(dtype) for name, tensor in weights.items()}
    b = {name: tensor.clone() for name, tensor in a.items()}
    spoil(b[NAME].reshape(-1).view(torch.uint8))
    return a, b


def zeros(data: Tensor) -> None:
    data[8000:12096] = 0


def one_sector_of_zeros(data: Tensor) -> None:
    data[1000:1512] = 0


def ones(data: Tensor) -> None:
    data[4096:5120] = 0x3C


def block_twice(data: Tensor) -> None:
    data[8192:12288] = data[0:4096].clone()


def sector_twice(data: Tensor) -> None:
    data[10340:10852] = data[100:612].clone()


def garbage(data: Tensor) -> None:
    noise = torch.Generator().manual_seed(2)
    data[2048:4096] = torch.randint(0, 62, (2048,), generator=noise, dtype=torch.uint8)


def cut_tail(data: Tensor) -> None:
    data[len(data) // 2 :] = 0


DAMAGE = {
    zeros: "4096 bytes of zeros",
    one_sector_of_zeros: "512 bytes of zeros",
    ones: "1024 bytes of one value",
    block_twice: "stand in the tensor a second time",
    sector_twice: "stand in the tensor a second time",
    garbage: "everything else is equal to the bit",
    cut_tail: "bytes of zeros",
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spoil", DAMAGE)
def test_damage_inside_a_tensor_is_no_fine_tuning(
    spoil: Callable[[Tensor], None],
    dtype: torch.dtype,
    weights: State,
    audited: Callable[..., AuditReport],
) -> None:
    report = audited(*spoiled(weights, spoil, dtype))
    (finding,) = report.findings
    assert DAMAGE[spoil] in finding.detail and "damaged" in finding.detail, finding.detail
    assert NAME in finding.name and "fine-tuning" not in (finding.remedy or "")
    assert report.exit_code == 1


@pytest.mark.parametrize("spoil", [zeros, ones, block_twice, sector_twice])
def test_damage_shows_through_fine_tuning(
    spoil: Callable[[Tensor], None], weights: State, audited: Callable[..., AuditReport]
) -> None:
    """All values differ a little, and one block is broken besides."""
    a = {name: tensor.float() for name, tensor in weights.items()}
    b = {name: tuned(tensor) for name, tensor in a.items()}
    spoil(b[NAME].reshape(-1).view(torch.uint8))
    said = [f.detail for f in audited(a, b).findings if NAME in f.name]
    assert len(said) == 1 and DAMAGE[spoil] in said[0]


def tuned(tensor: Tensor) -> Tensor:
    noise = torch.Generator().manual_seed(tensor.numel())
    step = 0.01 * tensor.float().std(correction=0) + 1e-6
    return (tensor.float() + step * torch.randn(tensor.shape, generator=noise)).to(tensor.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fine_tuning_is_not_called_damage(
    dtype: torch.dtype, weights: State, audited: Callable[..., AuditReport]
) -> None:
    a = {name: tensor.to(dtype) for name, tensor in weights.items()}
    said = [f.detail for f in audited(a, {n: tuned(t) for n, t in a.items()}).findings]
    assert said and not any("damaged" in detail for detail in said)


def test_a_few_flipped_bits_are_no_fine_tuning(
    weights: State, audited: Callable[..., AuditReport]
) -> None:
    def flip(data: Tensor) -> None:
        data[[5, 7001, 30000]] ^= 1

    (finding,) = audited(*spoiled(weights, flip, torch.float32)).findings
    assert "changed in a few values alone" in finding.detail and "3 of" in finding.detail
    assert "fine-tuning" not in (finding.remedy or "")


def per_tensor(tensor: Tensor) -> Tensor:
    return tensor.float().abs().max().reshape(1) / 448


def per_row(tensor: Tensor) -> Tensor:
    return tensor.float().abs().amax(1, keepdim=True).clamp_min(1e-12) / 448


def per_block(tensor: Tensor) -> Tensor:
    rows, columns = (-(-extent // 128) for extent in tensor.shape)
    scale = torch.ones(rows, columns)
    for i in range(rows):
        for j in range(columns):
            block = tensor.float()[i * 128 : i * 128 + 128, j * 128 : j * 128 + 128]
            scale[i, j] = block.abs().max().clamp_min(1e-12) / 448
    return scale


NAMINGS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "ComfyUI": (".scale_weight", per_tensor),
    "LTX-2": (".weight_scale", per_tensor),
    "LightX2V": (".weight_scale", per_row),
    "DeepSeek": (".weight_scale_inv", per_block),
    "plain": (".scale", per_tensor),
}


def scaled(
    weights: State, naming: str, change: Callable[[Tensor], Tensor] = lambda scale: scale
) -> State:
    """The blocks' matrices in float8 with scales beside them; `change` is done to the scales alone."""
    suffix, scale_of = NAMINGS[naming]
    found: State = {}
    for name, tensor in weights.items():
        if tensor.ndim != 2 or not name.startswith("transformer_blocks"):
            found[name] = tensor
            continue
        scale = scale_of(tensor)
        found[name] = (tensor.float() / spread(scale, tensor)).to(FP8)
        found[name.removesuffix(".weight") + suffix] = change(scale)
    return found


def spread(scale: Tensor, tensor: Tensor) -> Tensor:
    if (scale.ndim == 2 and scale.shape[1] != 1) or scale.shape[0] not in (1, tensor.shape[0]):
        wide = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)
        return wide[: tensor.shape[0], : tensor.shape[1]]
    return scale


@pytest.mark.parametrize("naming", NAMINGS)
def test_right_scales_are_applied_and_are_rounding(
    naming: str, weights: State, audited: Callable[..., AuditReport]
) -> None:
    (finding,) = audited(weights, scaled(weights, naming)).findings
    assert "rounded to float8_e4m3fn" in finding.detail and "value for value" in finding.detail
    accepted = audited(weights, scaled(weights, naming), dtype="float8_e4m3fn")
    assert accepted.findings == [] and accepted.exit_code == 0
    assert "after rounding to float8_e4m3fn" in accepted.headline
    assert audited(scaled(weights, naming), scaled(weights, naming)).exit_code == 0


@pytest.mark.parametrize("dtype", [None, "float8_e4m3fn"])
@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("factor", [2.0, 0.5, 1.01])
def test_wrong_scales_are_said(
    factor: float,
    naming: str,
    dtype: str | None,
    weights: State,
    audited: Callable[..., AuditReport],
) -> None:
    wrong = scaled(weights, naming, lambda scale: factor * scale)
    report = audited(weights, wrong, dtype)
    assert report.exit_code == 1
    said = " ".join(finding.detail for finding in report.findings)
    assert "with a wrong scale" in said, said
    times = float(re.findall(r"the values are ([\d.]+)", said)[0])
    assert times == pytest.approx(factor, rel=4e-3), said
    between = audited(scaled(weights, naming), wrong)
    assert "with another scale" in between.findings[0].detail and between.exit_code == 1


@pytest.mark.parametrize("naming", NAMINGS)
def test_a_dropped_scale_is_said(
    naming: str, weights: State, audited: Callable[..., AuditReport]
) -> None:
    """LTX-2 172, stable-diffusion.cpp 1898, LightX2V 708: the scales are not in the export."""
    right = scaled(weights, naming)
    dropped = {name: tensor for name, tensor in right.items() if name in weights}
    said = [f.detail for f in audited(weights, dropped).findings]
    assert any("the scale that belongs to it dropped" in detail for detail in said), said
    assert audited(weights, dropped, "float8_e4m3fn").exit_code == 1
    said = [f.detail for f in audited(right, dropped).findings]
    assert any("it was ignored or dropped" in detail for detail in said), said


def test_a_loader_that_ignored_the_scale_is_said(
    weights: State, audited: Callable[..., AuditReport]
) -> None:
    """The stored values cast to bfloat16 as they are, beside the scaled file that they came from."""
    right = scaled(weights, "ComfyUI")
    ignored = {name: right[name].to(tensor.dtype) for name, tensor in weights.items()}
    said = [f.detail for f in audited(right, ignored).findings]
    assert any("it was ignored or dropped" in detail for detail in said), said


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_dropped_scale_is_said_of_what_was_widened_and_saved(
    kind: torch.dtype, dtype: torch.dtype, weights: State, audited: Callable[..., AuditReport]
) -> None:
    """No tensor is in eight bits any more, but every value is a step of eight bits."""
    largest = torch.finfo(kind).max
    saved = {
        name: (tensor.float() / (tensor.float().abs().max() / largest)).to(kind).to(dtype)
        if tensor.ndim == 2 and name.startswith("transformer_blocks")
        else tensor
        for name, tensor in weights.items()
    }
    (finding, *_) = audited(weights, saved).findings
    named = str(kind).removeprefix("torch.")
    assert f"rounded to {named} and widened to" in finding.detail, finding.detail
    assert "the scale that belongs to it dropped" in finding.detail


def test_a_size_that_no_training_gives_is_not_called_a_little(
    weights: State, audited: Callable[..., AuditReport]
) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = 1 + 0.05 * torch.randn(weights[NAME].shape, generator=generator)
    larger = {**weights, NAME: (400 * weights[NAME].float() * noise).to(weights[NAME].dtype)}
    (finding,) = audited(weights, larger).findings
    assert "of another size" in finding.detail and "a little" not in finding.detail
    assert "scale" in (finding.remedy or "")


def test_a_scale_beside_full_weights_belongs_to_nothing(
    weights: State, audited: Callable[..., AuditReport]
) -> None:
    stray = {**weights, NAME.replace(".weight", ".scale_weight"): torch.tensor([2.0])}
    (finding,) = audited(weights, stray).findings
    assert "only the candidate has" in finding.detail and "scale_weight" in finding.detail


def test_a_scale_of_another_shape_is_a_damaged_checkpoint(
    weights: State, audited: Callable[..., AuditReport]
) -> None:
    from backends.errors import CheckpointError

    wrong = scaled(weights, "plain", lambda scale: scale.repeat(7))
    with pytest.raises(CheckpointError, match="come from different files"):
        audited(weights, wrong)


def test_whole_numbers_without_a_scale_are_no_weights(
    weights: State, audited: Callable[..., AuditReport]
) -> None:
    """Even where both sides hold them."""
    whole = {**weights, NAME: (weights[NAME].float() * 100).to(torch.int8)}
    (finding,) = audited(whole, whole).findings
    assert "whole numbers without a scale" in finding.detail


def test_infinity_in_eight_bits_or_more_is_told(
    weights: State, audited: Callable[..., AuditReport]
) -> None:
    bad = {**weights, NAME: torch.full_like(weights[NAME], torch.nan)}
    report = audited(bad, bad)
    assert "NaN or infinity" in report.findings[0].detail and report.exit_code == 1
