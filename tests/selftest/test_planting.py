"""Planted faults are live, and the stages stay the computation that the native run is."""

import pytest
import torch
from contract_driving import assert_same, case, native, staged

from backends import registry
from backends.base import Pipeline
from backends.worker import patches
from tests.selftest.catalogue import faults
from tests.selftest.faults.attention import Processor, install
from tests.selftest.liveness import measured
from tests.selftest.row import Fault


def opened(model: str, backend: str = "diffusers") -> Pipeline:
    return registry.load(backend).open(model, {"device": "cpu"})


def fault(name: str) -> Fault:
    return next(fault for fault in faults() if fault.id == name)


def planted(name: str, pipeline: Pipeline) -> Pipeline:
    plugin = fault(name).plugin
    assert plugin is not None
    patches.load_plugin(plugin)
    return patches.apply(name, pipeline)


@pytest.mark.parametrize(
    "name",
    ["weights_row_lost", "guidance_one_percent", "noise_first_of_two", "decoder_tiled",
     "frames_truncated_levels", "sat_solver_noise_weak", "state_latents_leak"],
)  # fmt: skip
def test_faults_are_live(name: str) -> None:
    row = measured(fault(name), fault(name).settings[0])
    assert row.live


def test_a_state_fault_leaves_the_first_video_alone() -> None:
    name = "state_latents_leak"
    row = measured(fault(name), fault(name).settings[0])
    assert row.note == "second render; the first differs by 0.0e+00"


@pytest.mark.parametrize(
    ("name", "backend"),
    [("guidance_one_percent", "diffusers"), ("noise_one_step_foreign", "diffusers"),
     ("solver_noise_weak", "diffusers"), ("rope_theta", "diffusers"), ("text_scaled", "diffusers"),
     ("decoder_gain", "diffusers"), ("call_default_scale", "diffusers"),
     ("sat_solver_clean_clipped", "sat"), ("guidance_off_at_first_step", "sat")],
)  # fmt: skip
def test_stages_stay_consistent(name: str, backend: str) -> None:
    """A fault of what the stages share moves the native run and the stages to the same bits."""
    what = case(64, model="micro-5b", sampler="dpm", dynamic_guidance=True)
    pipeline = planted(name, opened("micro-5b", backend))
    assert_same(native(pipeline, what), staged(pipeline, what))
    pipeline.close()


@pytest.mark.parametrize("name", ["frames_gain", "loop_latents_bf16"])
def test_faults_of_the_loop_spare_the_stages(name: str) -> None:
    what = case(32)
    clean = opened("micro-2b")
    right = staged(clean, what)
    clean.close()
    pipeline = planted(name, opened("micro-2b"))
    by_hand, looped = staged(pipeline, what), native(pipeline, what)
    pipeline.close()
    assert_same(right, by_hand)
    assert not torch.equal(looped.frames, right.frames)


def test_the_attention_in_parts_gives_diffusers_bits() -> None:
    what = case(32, model="micro-5b", sampler="dpm")
    pipeline = opened("micro-5b")
    right = native(pipeline, what)
    install(pipeline, Processor())
    assert_same(right, native(pipeline, what))
    pipeline.close()
