"""Weights hashed at use time: clean in every placement, and each planted fault is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract_driving import native
from small_renders import CASE, Full, opened

from backends.diffusers.options import PLACEMENTS
from backends.stages.weights_in_use import OffloadAudit, audit_offload

BLOCK = "transformer.transformer_blocks.3"


def audited(full: Full, pipeline: Any) -> OffloadAudit:
    try:
        return audit_offload(pipeline, full.identity, lambda: native(pipeline, CASE))
    finally:
        pipeline.close()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_placement_uses_the_weights_that_were_loaded(full: Full, placement: str) -> None:
    found = audited(full, opened(placement=placement))
    assert found.faults == [] and found.error is None
    # Text to video needs all but the VAE's encoder.
    assert found.unused and all(name.startswith("vae.encoder.") for name in found.unused)
    assert len(found.checked) + len(found.unused) == len(full.identity.weights)
    assert found.uses > len(found.checked) / 2


def test_a_lora_beside_offloaded_weights_is_seen_in_use_too() -> None:
    pipeline = opened(placement="model_offload", lora="micro-5b-magenta")
    expected = pipeline.identity()
    try:
        found = audit_offload(pipeline, expected, lambda: native(pipeline, CASE))
    finally:
        pipeline.close()
    assert found.faults == []
    assert {name for name in expected.weights if ".lora_" in name} <= found.checked
    assert all(name.startswith("vae.encoder.") for name in found.unused)


def _stale_model(pipeline: Any) -> None:
    pipeline.modules()[f"{BLOCK}.ff.net.2"].weight.data[0, 0] += 1


def _stale_sequential(pipeline: Any) -> None:
    pipeline.modules()[f"{BLOCK}.ff.net.2"]._hf_hook.weights_map["weight"][0, 0] += 1


def _stale_group(pipeline: Any) -> None:
    block = pipeline.modules()[BLOCK]
    group = block._diffusers_hook.get_hook("group_offloading").group
    weight = pipeline.modules()[f"{BLOCK}.ff.net.2"].weight
    kept = group.cpu_param_dict.get(weight) if group.cpu_param_dict else None
    (weight.data if kept is None else kept)[0, 0] += 1


@pytest.mark.parametrize(
    ("placement", "plant"),
    [
        ("model_offload", _stale_model),
        ("sequential_offload", _stale_sequential),
        ("group_offload_block", _stale_group),
    ],
)
def test_a_stale_weight_in_one_block_is_named(full: Full, placement: str, plant: Any) -> None:
    pipeline = opened(placement=placement)
    plant(pipeline)
    found = audited(full, pipeline)
    assert [(f.kind, f.tensor) for f in found.faults] == [("stale", f"{BLOCK}.ff.net.2.weight")]


def test_a_weight_that_goes_stale_later_is_dated(full: Full) -> None:
    pipeline = opened(placement="model_offload")
    module: Any = pipeline.modules()[f"{BLOCK}.ff.net.2"]
    calls: list[int] = []

    def spoil(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            module.weight.data[0, 0] += 1

    module.register_forward_hook(spoil)
    (fault,) = audited(full, pipeline).faults
    assert (fault.kind, fault.use) == ("stale", 2)


def test_one_block_in_another_dtype(full: Full) -> None:
    pipeline = opened(placement="model_offload")
    pipeline.modules()[BLOCK].to(torch.bfloat16)
    found = audited(full, pipeline)
    assert {fault.kind for fault in found.faults} == {"dtype"}
    assert all(fault.tensor.startswith(BLOCK) for fault in found.faults)
    assert "bfloat16, expected float32" in found.faults[0].detail
    assert found.error is not None and "dtype" in found.error


def test_a_missing_tensor_and_one_that_was_never_brought_in(full: Full) -> None:
    pipeline = opened(placement="sequential_offload")
    module: Any = pipeline.modules()[f"{BLOCK}.norm1.norm"]
    module._hf_hook.execution_device = torch.device("meta")
    found = audited(full, pipeline)
    assert ("missing", f"{BLOCK}.norm1.norm.weight") in {(f.kind, f.tensor) for f in found.faults}


def test_the_probes_own_error_is_not_swallowed(full: Full) -> None:
    def fail() -> None:
        raise ValueError("no probe")

    with pytest.raises(ValueError, match="no probe"):
        audit_offload(full.pipeline, full.identity, fail)


def test_nothing_stays_behind_in_the_pipeline(full: Full) -> None:
    audit_offload(full.pipeline, full.identity, lambda: native(full.pipeline, CASE))
    assert not any(m._forward_pre_hooks for m in full.pipeline.modules().values())
    assert torch.equal(native(full.pipeline, CASE).frames, full.render.frames)
