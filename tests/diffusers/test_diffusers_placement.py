"""Offloading moves weights and changes nothing: same digests, same frames, and hooks that really run."""

from typing import Any

import pytest
import torch
from contract_driving import assert_same, native
from small_renders import CASE, Full, opened

from backends.diffusers.adapter import DiffusersBackend
from backends.diffusers.options import PLACEMENTS
from backends.errors import InvalidRequest, Unsupported

OFFLOADED = [kind for kind in PLACEMENTS if kind != "full"]


@pytest.mark.parametrize("placement", OFFLOADED)
def test_offloading_changes_nothing(full: Full, placement: str) -> None:
    pipeline = opened(placement=placement)
    identity = pipeline.identity()
    assert identity.weights == full.identity.weights
    assert identity.dtypes == full.identity.dtypes
    assert identity.configs["placement.execution_device"] == "cpu-execution"
    differing = {k for k, v in full.identity.configs.items() if identity.configs[k] != v}
    assert differing == {"placement.kind", "placement.execution_device"}
    assert_same(full.render, native(pipeline, CASE))
    assert pipeline.identity() == identity, "weights changed during a render"
    pipeline.close()


def _parameters(pipeline: Any) -> list[torch.nn.Parameter]:
    pipe = pipeline.native()
    return [
        p for part in (pipe.text_encoder, pipe.transformer, pipe.vae) for p in part.parameters()
    ]


def test_sequential_offload_leaves_nothing_but_meta_tensors_between_calls() -> None:
    pipeline = opened(placement="sequential_offload")
    for _ in range(2):
        assert all(parameter.is_meta for parameter in _parameters(pipeline))
        assert torch.isfinite(native(pipeline, CASE).frames).all()
    pipeline.close()


def test_disk_offload_holds_the_weights_in_files_only(full: Full) -> None:
    pipeline = opened(placement="group_offload_leaf_disk")
    kept = zip(_parameters(pipeline), _parameters(full.pipeline), strict=True)
    # What is left in memory was allocated and never written; the files hold the weights.
    assert not all(torch.equal(left, right) for left, right in kept)
    assert torch.equal(native(pipeline, CASE).frames, full.render.frames)
    pipeline.close()


def test_model_offload_runs_the_hook_of_every_component(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.hooks import CpuOffload

    ran: list[str] = []
    inner = CpuOffload.pre_forward

    def pre_forward(self: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
        ran.append(type(module).__name__)
        return inner(self, module, *args, **kwargs)

    monkeypatch.setattr(CpuOffload, "pre_forward", pre_forward)
    pipeline = opened(placement="model_offload")
    native(pipeline, CASE)
    assert list(dict.fromkeys(ran)) == [
        "T5EncoderModel", "CogVideoXTransformer3DModel", "AutoencoderKLCogVideoX"
    ]  # fmt: skip
    pipeline.close()


def test_a_stale_weight_shows_in_the_identity(full: Full) -> None:
    """The digest is of what the hook brings in, not of what was loaded."""
    pipeline = opened(placement="sequential_offload")
    module: Any = pipeline.modules()["transformer.proj_out"]
    # Accelerate prefixes names with the module's own path inside one map for the component.
    weights = module._hf_hook.weights_map
    weights["weight"].add_(1.0)
    changed = pipeline.identity().weights
    assert {k for k, v in full.identity.weights.items() if changed[k] != v} == {
        "transformer.proj_out.weight"
    }
    pipeline.close()


def test_streams_need_an_accelerator() -> None:
    with pytest.raises(Unsupported, match="streams"):
        opened(placement="group_offload_leaf", use_stream=True)
    with pytest.raises(InvalidRequest, match="only group offloading"):
        opened(placement="model_offload", use_stream=True)


def test_a_diffusers_without_group_offloading_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers.hooks

    monkeypatch.setattr(diffusers.hooks, "apply_group_offloading", lambda module, offload_type: 0)
    with pytest.raises(Unsupported, match="offload_to_disk_path"):
        DiffusersBackend().check({"device": "cpu", "placement": "group_offload_leaf_disk"})
    DiffusersBackend().check({"device": "cpu", "placement": "group_offload_leaf"})
