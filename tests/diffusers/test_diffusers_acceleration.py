"""Accelerations: each runs, keeps the contract, changes what it says, and is refused where it cannot."""

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from contract_driving import assert_same, native, staged
from small_renders import CASE, Full, opened
from torch import Tensor

from backends.base import Case, Inputs
from backends.diffusers.adapter import DiffusersBackend
from backends.diffusers.options import ATTENTION
from backends.errors import InvalidRequest, MissingPrerequisite, Unsupported

# So many steps that a cache reuses something; first_block does where a step changes little.
LONG, LONGER = replace(CASE, steps=8), replace(CASE, steps=20)


def _off(options: dict[str, Any], full: Full, what: Case = LONG) -> float:
    """The largest difference from the plain frames; the contract is checked on the way."""
    pipeline = opened(**options)
    by_loop = native(pipeline, what)
    assert_same(by_loop, staged(pipeline, what))
    assert_same(by_loop, native(pipeline, what))  # nothing of the last run is left in a cache
    assert set(pipeline.identity().weights) == set(full.identity.weights)
    pipeline.close()
    return float((by_loop.frames - native(full.pipeline, what).frames).abs().max())


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"layerwise_casting": "float8_e4m3fn"}, CASE),
        ({"cache": "first_block"}, LONGER),
        ({"cache": "pab"}, LONG),
        ({"cache": "fastercache"}, LONG),
        pytest.param(
            {"quantization": "int8"},
            CASE,
            marks=pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is missing"),
        ),
    ],
    ids=str,
)
def test_what_changes_the_result_keeps_the_contract(
    options: dict[str, Any], what: Case, full: Full
) -> None:
    assert _off(options, full, what) > 0


def test_fused_projections_run_and_stay_within_rounding(full: Full) -> None:
    """On a CPU they may give the very same bits: each output is its own sum, fused or not."""
    assert _off({"fuse_qkv": True}, full, CASE) < 1e-3
    pipeline, ran = opened(fuse_qkv=True), set[str]()
    for name in ("to_q", "to_qkv"):
        layer = pipeline.modules()[f"transformer.transformer_blocks.0.attn1.{name}"]
        layer.register_forward_hook(lambda *_, name=name: ran.add(name))
    native(pipeline, CASE)
    assert ran == {"to_qkv"}
    pipeline.close()


@pytest.mark.slow
def test_compiled_blocks_stay_within_rounding_and_can_be_looked_into(full: Full) -> None:
    assert _off({"compile": True}, full, CASE) < 1e-3
    pipeline, ran = opened(compile=True), set[str]()
    native(pipeline, CASE)
    for name in ("transformer.transformer_blocks.1", "transformer.transformer_blocks.1.attn1.to_q"):
        pipeline.modules()[name].register_forward_hook(lambda *_, name=name: ran.add(name))
    native(pipeline, CASE)
    assert len(ran) == 2
    pipeline.close()


@pytest.mark.parametrize("attention", ATTENTION)
def test_every_attention_kernel_runs_or_is_refused(attention: str, full: Full) -> None:
    options = {"device": "cpu", "attention": attention}
    if attention in ("efficient", "cudnn"):
        with pytest.raises(Unsupported, match=f"attention={attention} does not run on cpu"):
            DiffusersBackend().check(options)
        return
    pipeline = opened(**options)
    torch.testing.assert_close(native(pipeline, CASE).frames, full.render.frames, atol=1e-4, rtol=0)
    pipeline.close()


def test_a_cache_gives_the_same_wherever_the_weights_are() -> None:
    renders = list[Tensor]()
    for placement in ("full", "model_offload", "sequential_offload", "group_offload_leaf"):
        pipeline = opened(cache="pab", placement=placement)
        renders.append(native(pipeline, LONG).frames)
        pipeline.close()
    assert all(torch.equal(frames, renders[0]) for frames in renders[1:])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"fuse_qkv": True, "layerwise_casting": "float8_e5m2"}, Unsupported, "choose one"),
        ({"fuse_qkv": True, "placement": "model_offload"}, Unsupported, "placement=full"),
        ({"compile": True, "placement": "group_offload_leaf"}, Unsupported, "placement=full"),
        ({"fuse_qkv": True, "lora": "micro-5b-magenta"}, Unsupported, "without it"),
        ({"cache": "pabb"}, InvalidRequest, "did you mean 'pab'"),
    ],
)
def test_what_cannot_be_combined(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        DiffusersBackend().check({"device": "cpu"} | options)


def test_fastercache_without_guidance() -> None:
    pipeline = opened(cache="fastercache")
    with pytest.raises(Unsupported, match="one half only"):
        pipeline.prepare(replace(CASE, guidance_scale=1.0), Inputs())
    pipeline.close()


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingPrerequisite, match="no compiler"):
        DiffusersBackend().check({"device": "cpu", "compile": True})


@pytest.mark.skipif(find_spec("torchao") is not None, reason="torchao is installed here")
def test_quantization_says_what_is_missing() -> None:
    with pytest.raises(MissingPrerequisite, match="pip install torchao"):
        DiffusersBackend().check({"device": "cpu", "quantization": "int8"})
