"""The bridge's own part of a render, on a stand-in for CogVideo's code.

The stand-in has the classes, methods and argument names that the bridge relies on, around this
project's modules; so both backends must agree to the bit. `tests/oracle/sat_tree` and, where a
checkout is named, `tests/contract` do the same with CogVideo's real code.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))

from contract_driving import assert_same, case, native, staged

from backends.base import Inputs, Pipeline, ScheduleTable
from backends.errors import CheckpointError, InvalidRequest, Unsupported
from backends.noise import NoiseTape
from backends.sat.adapter import SatBackend
from backends.sat.tree import checkout

STAND_IN = str(Path(__file__).parent / "stand_in")
CPU: dict[str, Any] = {"device": "cpu"}


@pytest.fixture(scope="module", autouse=True)
def nothing_required() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkout, "missing", lambda _: [])
        yield


@pytest.fixture(scope="module")
def pipelines() -> Iterator[tuple[Pipeline, Pipeline]]:
    """The built-in backend's pipeline and that of the stand-in."""
    backend = SatBackend()
    both = backend.open("micro-2b", CPU), backend.open("micro-2b", CPU | {"repo": STAND_IN})
    yield both
    for pipeline in both:
        pipeline.close()


@pytest.mark.parametrize("foreign", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
def test_native_staged_and_built_in_agree(
    pipelines: tuple[Pipeline, Pipeline], sampler: str, foreign: bool
) -> None:
    own, theirs = pipelines
    what = case(64, sampler=sampler, steps=3, dynamic_guidance=sampler == "dpm")
    inputs = _foreign(own.prepare(what, Inputs()).schedule) if foreign else Inputs()
    loop = native(theirs, what, inputs)
    assert len(loop.steps) == 3
    assert_same(loop, staged(theirs, what, inputs))
    assert_same(loop, native(own, what, inputs))


def test_identity_policies_and_blocks(pipelines: tuple[Pipeline, Pipeline]) -> None:
    own, theirs = pipelines
    assert theirs.identity().weights == own.identity().weights
    assert theirs.policies() == own.policies()
    assert theirs.modules().keys() == own.modules().keys()
    what, ran = case(64, steps=2), list[Any]()
    before = native(theirs, what)
    block = theirs.modules()["transformer.transformer_blocks.1"]
    handle = block.register_forward_hook(lambda _, inputs, outputs: ran.append((inputs, outputs)))
    assert_same(before, native(theirs, what))
    handle.remove()
    (patches, text, _), outputs = ran[0]
    assert len(ran) == 2 and [t.shape for t in outputs] == [patches.shape, text.shape]


def test_a_velocity_alone_is_enough_for_a_step(pipelines: tuple[Pipeline, Pipeline]) -> None:
    what = case(64, sampler="dpm", steps=3)
    first, second = (p.prepare(what, Inputs()) for p in pipelines)
    tape = NoiseTape(0)
    latents = second.initial_latents(tape)
    prediction = first.predict(latents, 0)
    whole = second.step(latents, prediction, 0, tape)
    bare = type(prediction)(prediction.velocity, prediction.branches, prediction.guidance_scale)
    again = NoiseTape(0)
    second.initial_latents(again)
    torch.testing.assert_close(second.step(latents, bare, 0, again), whole)


def test_steps_out_of_order_are_refused(pipelines: tuple[Pipeline, Pipeline]) -> None:
    run = pipelines[1].prepare(case(64, sampler="dpm", steps=3), Inputs())
    latents = run.initial_latents(NoiseTape(0))
    with pytest.raises(InvalidRequest, match="drive the steps in order"):
        run.step(latents, run.predict(latents, 1), 1, NoiseTape(0))


def test_what_does_not_fit_is_refused(
    pipelines: tuple[Pipeline, Pipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = SatBackend()
    with pytest.raises(CheckpointError, match="is not a folder"):
        backend.open(str(tmp_path / "none"), CPU | {"repo": STAND_IN})
    from backends.checkpoints import convert
    from backends.micro import model_path

    folder = tmp_path / "sat"
    convert(model_path("micro-2b"), folder, "sat")
    states = folder / "transformer" / "1" / "mp_rank_00_model_states.pt"
    content = torch.load(states, weights_only=True)
    del content["module"]["model.diffusion_model.time_embed.0.bias"]
    torch.save(content, states)
    with pytest.raises(CheckpointError, match=r"1 missing \(time_embed\.0\.bias\)"):
        backend.open(str(folder), CPU | {"repo": STAND_IN})
    states.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="cannot be read"):
        backend.open(str(folder), CPU | {"repo": STAND_IN})
    monkeypatch.setattr(checkout.CogVideoCode, "__setattr__", _fixed_generation)
    with pytest.raises(Unsupported, match=r"check out tag v1\.0"):
        backend.open("micro-2b", CPU | {"repo": STAND_IN})


def _fixed_generation(code: Any, name: str, value: Any) -> None:
    object.__setattr__(code, name, "1.5" if name == "generation" else value)


def _foreign(table: ScheduleTable) -> Inputs:
    return Inputs(
        schedule=ScheduleTable(
            timesteps=[t - 1 for t in table.timesteps],
            alpha_bar=[min(a * 0.9 + 1e-3, 0.9) for a in table.alpha_bar],
            alpha_bar_next=[min(a * 0.9 + 1e-3, 0.95) for a in table.alpha_bar_next],
        ),
        latent_dtype="bfloat16",
    )
