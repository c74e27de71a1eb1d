"""What every backend promises, whatever it is: stages equal the native run, and nothing is left over."""

import gc
import json
import weakref
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_driving import assert_same, case, native, staged
from contract_rows import CPU, PLACEMENTS, STACKS, Row, loaded

from backends import registry
from backends.base import DTYPES, Inputs, Pipeline, ScheduleTable
from backends.errors import CheckpointError, InvalidRequest, Unsupported
from backends.noise import NoiseTape, expected_step_draws

Stack = tuple[Row, Pipeline]


def test_every_registered_backend_is_held_to_the_contract() -> None:
    assert {row.backend for row in [*STACKS, *PLACEMENTS]} == set(registry.names())


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="ddim"),
        pytest.param({"sampler": "dpm", "dynamic_guidance": True}, id="dpm-dynamic"),
        pytest.param({"sampler": "dpm", "steps": 7, "guidance_scale": 1.0}, id="dpm-7-unguided"),
    ],
)
def test_stages_reproduce_the_native_run(
    row: Row, pipeline: Pipeline, changes: dict[str, Any]
) -> None:
    what = case(row.size, **changes)
    by_loop, by_hand = native(pipeline, what), staged(pipeline, what)
    assert len(by_loop.steps) == what.steps
    assert_same(by_loop, by_hand)


def test_layouts_ranges_and_dtypes(stack: Stack) -> None:
    row, pipeline = stack
    what = case(row.size, sampler="dpm")
    driven, run = native(pipeline, what), pipeline.prepare(what, Inputs())
    assert driven.frames.shape == (what.frames, what.height, what.width, 3)
    assert driven.frames.dtype == torch.float32 and driven.frames.device.type == "cpu"
    assert driven.frames.min() >= 0 and driven.frames.max() <= 1
    assert run.latent_shape == (1, 3, 16, what.height // 8, what.width // 8)
    kept = getattr(torch, pipeline.policies().latent_dtype)
    for step in driven.steps:
        assert step.latents.shape == step.result.shape == run.latent_shape
        assert step.latents.dtype == step.result.dtype == kept
        assert step.prediction.velocity.shape == run.latent_shape
        assert step.prediction.velocity.dtype == torch.float32
        assert step.prediction.branches.shape[0] == 2
    assert run.text.shape == run.negative_text.shape == (1, 24, 64)
    columns = [column for column in asdict(run.schedule).values() if column is not None]
    assert len(columns) >= 3
    assert {len(column) for column in columns} == {what.steps}


@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
def test_draws_are_those_of_the_sampler(stack: Stack, sampler: str) -> None:
    row, pipeline = stack
    what = case(row.size, sampler=sampler, steps=4)
    draws = native(pipeline, what).tape.draws
    assert [draw.stage for draw in draws][:1] == ["initial"]
    for step in range(what.steps):
        fewest, most = expected_step_draws(sampler, step, what.steps)
        came = sum(draw.stage == "step" and draw.step == step for draw in draws)
        assert fewest <= came <= most


def test_a_render_is_a_function_of_its_seed(row: Row, pipeline: Pipeline) -> None:
    """Whatever this pipeline rendered before, it renders like one that was just opened."""
    what = case(row.size, sampler="dpm")
    again, other = native(pipeline, what), native(pipeline, what, seed=1)
    fresh = row.open()
    assert_same(native(fresh, what), again)
    fresh.close()
    assert not torch.equal(again.frames, other.frames)


def test_shared_inputs_are_used(stack: Stack) -> None:
    row, pipeline = stack
    what = case(row.size, sampler="dpm", steps=4)
    own = pipeline.prepare(what, Inputs()).schedule
    draw = torch.Generator().manual_seed(0)
    inputs = Inputs(
        text=torch.randn(1, 24, 64, generator=draw),
        negative_text=torch.zeros(1, 24, 64),
        schedule=ScheduleTable(
            timesteps=[t - 1 for t in own.timesteps],
            alpha_bar=[min(a * 0.9 + 1e-3, 0.9) for a in own.alpha_bar],
            alpha_bar_next=[min(a * 0.9 + 1e-3, 1.0) for a in own.alpha_bar_next],
        ),
    )
    run = pipeline.prepare(what, inputs)
    assert run.schedule == inputs.schedule
    for given, used in ((inputs.text, run.text), (inputs.negative_text, run.negative_text)):
        assert given is not None and torch.equal(given.to(used.dtype), used.cpu())
    by_loop = native(pipeline, what, inputs)
    assert_same(by_loop, staged(pipeline, what, inputs))
    assert inputs.schedule is not None
    assert [step.timestep for step in by_loop.steps] == inputs.schedule.timesteps
    assert not torch.equal(by_loop.frames, native(pipeline, what).frames)


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_the_shared_latent_dtype_is_imposed(stack: Stack, name: str) -> None:
    row, pipeline = stack
    what = case(row.size, sampler="dpm")
    by_loop = native(pipeline, what, Inputs(latent_dtype=name))
    assert_same(by_loop, staged(pipeline, what, Inputs(latent_dtype=name)))
    for step in by_loop.steps:
        rounded = step.result.to(getattr(torch, name)).to(step.result.dtype)
        assert torch.equal(rounded, step.result)
    same = name == pipeline.policies().latent_dtype
    assert torch.equal(by_loop.frames, native(pipeline, what).frames) == same


def test_its_own_inputs_handed_back_change_nothing(stack: Stack) -> None:
    row, pipeline = stack
    what = case(row.size, sampler="dpm", steps=7)
    run = pipeline.prepare(what, Inputs())
    inputs = Inputs(
        text=run.text,
        negative_text=run.negative_text,
        schedule=run.schedule,
        latent_dtype=pipeline.policies().latent_dtype,
    )
    assert_same(native(pipeline, what), native(pipeline, what, inputs))


def test_identity_is_plain_stable_and_complete(row: Row, pipeline: Pipeline) -> None:
    before = asdict(pipeline.identity())
    native(pipeline, case(row.size))
    assert asdict(pipeline.identity()) == before == json.loads(json.dumps(before))
    components = {"transformer", "vae", "text_encoder"}
    assert {name.split(".")[0] for name in before["weights"]} == components
    assert set(before["dtypes"]) == components
    assert {"vae.scaling_factor", "scheduler.snr_shift_scale", "text.max_sequence_length"} <= set(
        before["configs"]
    )
    policies = asdict(pipeline.policies())
    assert policies.pop("image_scale") is None
    assert policies["latent_dtype"] in DTYPES and all(policies.values())


def test_modules_have_canonical_names_and_run(row: Row, pipeline: Pipeline) -> None:
    modules, ran = pipeline.modules(), list[str]()
    names = ["transformer.transformer_blocks.0", "vae.decoder", "text_encoder"]
    handles = [
        modules[name].register_forward_hook(lambda *_, name=name: ran.append(name))
        for name in names
    ]
    native(pipeline, case(row.size))
    for handle in handles:
        handle.remove()
    assert set(ran) == set(names)


def _process_state() -> dict[str, Any]:
    backends = torch.backends
    return {
        "randn": (torch.randn, torch.randn_like, torch.normal, torch.Tensor.normal_),
        "threads": torch.get_num_threads(),
        "default_dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "tf32": (backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32),
        "sdp": (
            backends.cuda.flash_sdp_enabled(),
            backends.cuda.math_sdp_enabled(),
            backends.cuda.mem_efficient_sdp_enabled(),
        ),
        "rng": torch.get_rng_state().tolist(),
    }


def test_nothing_is_left_behind(row: Row) -> None:
    before = _process_state()
    fresh, what = row.open(attention="math"), case(row.size)
    hooks = _hooks(fresh)
    native(fresh, what)
    staged(fresh, what)
    assert _process_state() == before
    assert _hooks(fresh) == hooks
    module = weakref.ref(fresh.modules()["transformer"])
    fresh.close()
    fresh.close()
    gc.collect()
    assert module() is None, "the transformer outlives its pipeline"
    assert _process_state() == before
    with pytest.raises(InvalidRequest, match="closed"):
        fresh.render(what, Inputs(), NoiseTape(0), lambda *_: None)


def _hooks(pipeline: Pipeline) -> dict[str, tuple[int, int]]:
    return {
        name: (len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in pipeline.modules().items()
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frames": 10}, "10 frames"),
        ({"frames": 0}, "0 frames"),
        ({"height": 40}, "40"),
        ({"width": 0}, "0"),
        ({"steps": 0}, "0 steps"),
        ({"steps": 1001}, "1001 steps"),
        ({"image": "cat.png"}, "image"),
        ({"sampler": "euler"}, "euler"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
    ],
)
def test_an_impossible_case_is_refused(stack: Stack, changes: dict[str, Any], words: str) -> None:
    row, pipeline = stack
    with pytest.raises((InvalidRequest, Unsupported), match=words):
        pipeline.prepare(case(**({"size": row.size} | changes)), Inputs())


def test_inputs_that_do_not_fit_are_refused(stack: Stack) -> None:
    row, pipeline = stack
    what = case(row.size)
    schedule = pipeline.prepare(case(row.size, steps=4), Inputs()).schedule
    for inputs, words in (
        (Inputs(text=torch.zeros(1, 20, 64)), "shape"),
        (Inputs(schedule=schedule), "schedule"),
        (Inputs(latent_dtype="float8"), "latent_dtype"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            native(pipeline, what, inputs)


@pytest.mark.parametrize("backend", registry.names())
def test_bad_options_and_models_are_named(backend: str, tmp_path: Path) -> None:
    found = loaded(backend)
    with pytest.raises(InvalidRequest, match="did you mean 'dtype'"):
        found.check({"dtyp": "float32"})
    with pytest.raises(InvalidRequest, match="did you mean 'bfloat16'"):
        found.check({"dtype": "bfloat61"})
    with pytest.raises(Unsupported, match="cudnn"):
        found.check(CPU | {"attention": "cudnn"})
    for model in (str(tmp_path), str(tmp_path / "none")):
        with pytest.raises(CheckpointError):
            found.open(model, CPU)
