"""Offloading in a comparison: weights hashed at the moment of use, and the module named that erred."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.base import Case, Variant
from harness.config.compose import compose_tree
from harness.config.config import build
from harness.config.folders import conf_folders
from harness.probe.prober import Prober, Target
from harness.probe.weights_in_use import InUse, moves_weights, weights_in_use
from harness.render.runner import ExecutionSettings
from harness.store.store import Store
from harness.verdict.procedure import judge_probed
from harness.workers.connect import in_process

PLUGIN = "tests.selftest.faults.offload"
BLOCKS = "transformer.transformer_blocks"
CASE = Case(
    name="small", model="micro-2b", prompt="a red circle", negative_prompt="", frames=9, height=64,
    width=64, steps=2, guidance_scale=6.0, dynamic_guidance=False, sampler="ddim", fps=8,
)  # fmt: skip


@pytest.fixture
def prober(tmp_path: Path) -> Iterator[Prober]:
    with Prober(Store(tmp_path / "store"), in_process, [PLUGIN], 600, tmp_path) as found:
        yield found


def target(placement: str, patch: str | None = None) -> Target:
    options = {"placement": placement, "device": "cpu"}
    return Target(Variant("offloaded", "diffusers_offload", options, patch), None, None)


def in_use(prober: Prober, placement: str, patch: str | None = None) -> InUse:
    return weights_in_use(prober, CASE, target(placement, patch), seed=0)


def test_only_offloading_moves_weights() -> None:
    assert moves_weights(target("sequential_offload"))
    assert not moves_weights(target("full"))
    assert not moves_weights(Target(Variant("sat", "sat", {}, None), None, None))


@pytest.mark.parametrize("placement", ["sequential_offload", "group_offload_block"])
def test_healthy_offloading_uses_what_was_loaded(prober: Prober, placement: str) -> None:
    found = in_use(prober, placement)
    (check,) = found.evidence
    assert (check.outcome, check.value) == ("agrees", 0.0) and not found.places
    assert "weights hashed inside the modules that use them" in check.detail
    assert "not seen in use" not in check.detail


@pytest.mark.parametrize(
    ("fault", "component", "module", "says"),
    [
        ("stale_decoder_norm", "decoder", "vae.decoder.norm_out.norm_layer", "other values"),
        ("stale_text_norm", "text", "text_encoder.encoder.final_layer_norm", "other values"),
        ("block_fp8", "transformer", f"{BLOCKS}.1", "rounded to float8_e4m3fn"),
        ("block_not_loaded", "transformer", f"{BLOCKS}.4", "all zeros: it never arrived"),
        ("half_copied", "transformer", f"{BLOCKS}.3", "(use 1)"),
        (
            "projection_from_other_layer", "transformer", f"{BLOCKS}.0.attn1.to_q",
            f"holds the values of {BLOCKS}.0.attn1.to_k.weight",
        ),
    ],
)  # fmt: skip
def test_a_planted_fault_is_named_with_its_module(
    prober: Prober, fault: str, component: str, module: str, says: str
) -> None:
    found = in_use(prober, "model_offload", f"offload_{fault}")
    (check,) = found.evidence
    assert (check.outcome, check.component) == ("differs", component)
    assert module in check.detail and says in check.detail
    ((place, where),) = found.places.items()
    assert (place, where.module) == (component, module)


def test_the_verdict_names_the_module(tmp_path: Path) -> None:
    """The fault that usual gates on the frames pass: the decoder's last norm with old weights."""
    name = "diffusers_model_offload"
    overrides = [
        f"store={tmp_path}/store", f"results={tmp_path}/results", "case=[micro_2b_quick]",
        "cases.micro_2b_quick.steps=2", f"candidate=[{name}]",
        f"candidates.{name}.patch=offload_stale_decoder_norm",
        "judge.probe_seeds=[0,1]", "judge.calibration_seeds=[1000001]",
    ]  # fmt: skip
    config = build(compose_tree(overrides, conf_folders(None)))
    settings = ExecutionSettings(config.timeout_s, (PLUGIN,), tmp_path, in_process)
    (pair,) = judge_probed(config, Store(config.store), settings)
    assert pair.verdict == "bug"
    cause = pair.findings[0]
    assert (cause.component, cause.block) == ("decoder", "vae.decoder.norm_out.norm_layer")
    checks = [e for e in pair.evidence if e.check == "exact.weights_in_use"]
    assert [check.outcome for check in checks] == ["differs"]
