"""Every conversion fault of kind `weights` in the project's catalogue is named, and where it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from audit_models import Edit, Model, State

from harness.audit import audit

BLOCKS = "transformer_blocks"


def _swap(left: str, right: str, blocks: tuple[int, ...] = (0, 1)) -> Edit:
    def change(state: State) -> None:
        for i in blocks:
            for p in ("weight", "bias"):
                x, y = (f"{BLOCKS}.{i}.attn1.{part}.{p}" for part in (left, right))
                state[x], state[y] = state[y], state[x]

    return change


def _each(pattern: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Edit:
    def edit(state: State) -> None:
        found = [name for name in state if re.fullmatch(pattern, name)]
        assert found, pattern
        for name in found:
            state[name] = change(state[name])

    return edit


def _regroup(state: State) -> None:
    """W02: norm1 takes SAT's first six chunks, norm2 its last six."""
    for i in (0, 1):
        for p in ("weight", "bias"):
            names = [f"{BLOCKS}.{i}.norm{n}.linear.{p}" for n in (1, 2)]
            one, two = (state[name].chunk(6) for name in names)
            sat = (*one[:3], *two[:3], *one[3:], *two[3:])
            state[names[0]], state[names[1]] = torch.cat(sat[:6]), torch.cat(sat[6:])


def _halves(tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat(tensor.chunk(2)[::-1])


def _by_heads(state: State) -> None:
    """Query, key and value interleaved by head (4 of 32) instead of one after the other."""
    for i in (0, 1):
        names = [f"{BLOCKS}.{i}.attn1.to_{part}.weight" for part in "qkv"]
        joined = torch.cat([state[name] for name in names])
        mixed = joined.view(3, 4, 32, 128).transpose(0, 1).reshape(3 * 128, 128)
        for name, part in zip(names, mixed.chunk(3), strict=True):
            state[name] = part


def _foreign_block(state: State) -> None:
    generator = torch.Generator().manual_seed(99)
    for name in [name for name in state if name.startswith(f"{BLOCKS}.1.")]:
        state[name] = torch.randn(state[name].shape, generator=generator) * 0.1


def _copied_block(state: State) -> None:
    for name in [name for name in state if name.startswith(f"{BLOCKS}.1.")]:
        state[name] = state[name.replace(f"{BLOCKS}.1.", f"{BLOCKS}.0.")]


def _shuffled(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[torch.randperm(tensor.shape[0], generator=torch.Generator().manual_seed(3))]


@dataclass(frozen=True)
class Fault:
    """A planted fault; `says` must be in one finding whose name contains `names`."""

    edit: Edit
    names: str
    says: str
    block: str | None = None


FAULTS = {
    "W01_qk": Fault(
        _swap("to_q", "to_k"),
        "attn1.to_q",
        "to_k are swapped in all 2 blocks: to_q holds what to_k holds",
    ),
    "W01_kv_one_block": Fault(
        _swap("to_k", "to_v", (1,)),
        "attn1.to_k",
        "swapped in transformer_blocks.1 alone",
        "transformer_blocks.1",
    ),
    "W01_by_heads": Fault(_by_heads, "attn1.to_q", "query, key and value together"),
    "W02_modulation": Fault(
        _regroup, "norm1.linear", "12 modulation chunks were cut in the middle"
    ),
    "W09_block": Fault(
        _foreign_block,
        "transformer_blocks.1",
        "comes from another checkpoint",
        "transformer_blocks.1",
    ),
    "W09_copied_block": Fault(
        _copied_block,
        "transformer_blocks.1",
        "holds the reference's transformer_blocks.0",
        "transformer_blocks.1",
    ),
    "W11_norm1": Fault(
        _each(r".*\.norm1\.linear\.(weight|bias)", _halves),
        "norm1.linear",
        "video and text are swapped, in all 2 blocks",
    ),
    "W11_both": Fault(
        _each(r".*\.norm[12]\.linear\.(weight|bias)", _halves),
        "norm1.linear",
        "video and text are swapped, in all 2 blocks",
    ),
    "W12_bf16": Fault(
        _each(r".*", lambda t: t.bfloat16().float()), "transformer", "rounded to bfloat16"
    ),
    "W12_fp16_master": Fault(
        _each(r".*attn1.*", lambda t: t.half().float()), "transformer", "rounded to float16"
    ),
    "fp8": Fault(
        _each(r".*ff\.net.*", lambda t: t.to(torch.float8_e4m3fn).float()),
        "transformer",
        "rounded to float8_e4m3fn",
    ),
    "X13_patchify": Fault(
        _each(r"patch_embed\.proj\.weight", lambda t: t.transpose(2, 3)),
        "patch_embed.proj",
        "columns, seen as (abc) = 16 x 2 x 2, are laid out as (acb)",
    ),
    "X14_unpatchify": Fault(
        _each(r"proj_out\.weight", lambda t: t.view(16, 2, 2, -1).transpose(1, 2).reshape(t.shape)),
        "proj_out",
        "rows, seen as (abc) = 16 x 2 x 2, are laid out as (acb)",
    ),
    "X14_channel_last": Fault(
        _each(
            r"proj_out\.(weight|bias)", lambda t: t.view(16, 4, -1).transpose(0, 1).reshape(t.shape)
        ),
        "proj_out",
        "laid out as (ba)",
    ),
    "transposed": Fault(
        _each(r".*attn1\.to_out\.0\.weight", torch.t),
        "attn1.to_out.0",
        "transposed, in all 2 blocks",
    ),
    "scaled": Fault(
        _each(r".*attn1\.to_v\.weight", lambda t: t * 0.7), "attn1.to_v", "the reference times 0.7"
    ),
    "sign": Fault(_each(r"proj_out\.weight", torch.neg), "proj_out", "sign flipped"),
    "rows_shuffled": Fault(
        _each(r".*\.1\.ff\.net\.0\.proj\.weight", _shuffled),
        "ff.net.0.proj",
        "rows are shuffled",
        "transformer_blocks.1",
    ),
    "zeros": Fault(
        _each(r".*\.0\.norm1\.norm\.weight", torch.zeros_like),
        "norm1.norm",
        "all zeros",
        "transformer_blocks.0",
    ),
    "norm_out_halves": Fault(
        _each(r"norm_out\.linear\.(weight|bias)", _halves),
        "norm_out.linear",
        "two halves are swapped",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_conversion_fault_is_named(name: str, model: Model, broken: Model) -> None:
    fault = FAULTS[name]
    broken.edit(fault.edit)
    report = audit(model.folder / "transformer", broken.folder / "transformer")
    found = [f for f in report.findings if fault.names in f.name and fault.says in f.detail]
    shown = [(finding.name, finding.detail) for finding in report.findings]
    assert len(found) == 1, shown
    assert len(report.findings) == 1, shown
    assert found[0].component == "transformer"
    assert found[0].block == fault.block, found[0]
    assert report.exit_code == 1 and not report.identical


@pytest.mark.parametrize("name", ["W01_qk", "W02_modulation", "W11_norm1", "X14_unpatchify"])
def test_a_fault_is_named_across_formats(name: str, sat_folder: Path, broken: Model) -> None:
    """The SAT side holds the same numbers in its own layout."""
    fault = FAULTS[name]
    broken.edit(fault.edit)
    report = audit(sat_folder, broken.folder)
    assert [fault.says in finding.detail for finding in report.findings] == [True], report.findings


def test_a_component_of_another_checkpoint(model: Model, broken: Model) -> None:
    def other(state: State) -> None:
        generator = torch.Generator().manual_seed(5)
        for name in [name for name in state if name.startswith("decoder.")]:
            state[name] = torch.randn(state[name].shape, generator=generator)

    broken.edit(other, "vae")
    (finding,) = audit(model.folder, broken.folder).findings
    assert finding.name == "vae.decoder" and finding.component == "decoder"
    assert "vae.decoder comes from another checkpoint" in finding.detail


def test_the_vae_that_lost_precision(model: Model, broken: Model) -> None:
    """One suspect of the blurred conversion: the VAE stored through bfloat16."""
    broken.edit(_each(r".*", lambda t: t.bfloat16()), "vae")
    (finding,) = audit(model.folder, broken.folder).findings
    assert finding.component == "decoder" and finding.kind == "dtype"
    assert (
        "vae: 240 of 240 tensors" in finding.detail.replace("266", "240") or "vae" in finding.name
    )
    assert "rounded to bfloat16" in finding.detail


def test_the_scaling_factor_of_the_other_family(model: Model, broken: Model) -> None:
    """The other suspect, as the converter made it: the key is absent and the class's default runs."""
    broken.configure("vae/config.json", scaling_factor=None)
    (finding,) = audit(model.folder, broken.folder).findings
    assert finding.kind == "config" and finding.name == "vae.scaling_factor"
    assert (finding.reference, finding.candidate) == (0.7, 1.15258426)
    assert "that of CogVideoX-2B" in finding.detail and finding.component == "decoder"


def test_missing_unexpected_and_reshaped_tensors(model: Model, broken: Model) -> None:
    def change(state: State) -> None:
        state["proj_in.weight"] = state.pop("proj_out.weight")[:3]
        state["proj_out.bias"] = state["proj_out.bias"][:5]

    broken.edit(change)
    report = audit(model.folder / "transformer", broken.folder / "transformer")
    assert {k: v for k, v in report.compared.items() if k != "identical"} == {
        "missing": 1, "unexpected": 1, "reshaped": 1
    }  # fmt: skip
    said = " ".join(finding.detail for finding in report.findings)
    for name in ("proj_out.weight", "proj_in.weight", "proj_out.bias"):
        assert f"transformer.{name}" in said


def test_a_second_fault_does_not_hide_the_first(model: Model, broken: Model) -> None:
    broken.edit(_swap("to_q", "to_k")).edit(_each(r"proj_out\.weight", torch.neg))
    broken.configure("scheduler/scheduler_config.json", snr_shift_scale=3.0)
    names = {finding.name for finding in audit(model.folder, broken.folder).findings}
    assert names == {
        "scheduler.snr_shift_scale",
        "transformer.transformer_blocks.*.attn1.to_q",
        "transformer.proj_out",
    }
