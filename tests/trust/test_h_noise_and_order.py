"""Kind H: noise that depends on order, draws from another generator, calls that fail now and then, and a
source clip that is lost are found at default settings, with the place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from backends.noise import NoiseTape
from backends.stages.intercept import draws_from
from harness.cli import main

PLUGIN = """
import torch
from torch import nn
from tests.selftest.faults.attention import Processor, attended, install
from tests.selftest.faults.noise import AlteredTape
from tests.selftest.faults.planting import altered, become, module, on_output, stack
from backends.worker.patches import patch


def _counted(pipeline, first):
    made = [0]

    def tape(inner):
        made[0] += 1
        number = made[0] - first
        return AlteredTape(
            inner, lambda place, drawn: place.other(drawn.shape, seed=number) if number > 0 else drawn
        )

    return altered(pipeline, tape=tape)


@patch("h_noise_by_count")
def noise_by_count(pipeline):
    return _counted(pipeline, 1)


@patch("h_noise_after_some")
def noise_after_some(pipeline):
    return _counted(pipeline, 5)


@patch("h_generator_dropped")
def generator_dropped(pipeline):
    scheduler = stack(pipeline).scheduler
    native = type(scheduler).step

    def step(self, *a, generator=None, **k):
        return native(self, *a, generator=None, **k)

    import functools
    become(scheduler, step=functools.wraps(native)(step))


def _now_and_then(value):
    value = abs(float(value))
    return value == value and int(value * 1e5) % 20 == 0


@patch("h_nan_now_and_then")
def nan_now_and_then(pipeline):
    def attend(q, k, v):
        out = attended(q, k, v)
        return out * float("nan") if _now_and_then(q[0, 0, 0, 0]) else out

    install(pipeline, Processor(attend), [2])


@patch("h_wrong_now_and_then")
def wrong_now_and_then(pipeline):
    layer = module(pipeline, "transformer.transformer_blocks.1.ff.net.2")
    on_output(layer, lambda out: out * 1.5 if _now_and_then(out[0, 0, 0]) else out)


@patch("h_clip_lost")
def clip_lost(pipeline):
    vae = stack(pipeline).vae
    native = type(vae)._encode
    become(vae, _encode=lambda self, x: torch.zeros_like(native(self, x)))


@patch("h_clip_mirrored")
def clip_mirrored(pipeline):
    vae = stack(pipeline).vae
    native = type(vae)._encode
    become(vae, _encode=lambda self, x: native(self, x.flip(-1)))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store and one plugin, so that the plain reference is rendered once."""
    folder = tmp_path_factory.mktemp("noise")
    (folder / "h_patches.py").write_text(PLUGIN)
    return folder


def _run(folder: Path, monkeypatch: pytest.MonkeyPatch, case: str, patch: str, *more: str) -> Any:
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(str(folder))
    main([
        "run", f"case=[{case}]", "reference=diffusers", "reference.name=reference",
        "candidate=[diffusers]", f"candidates.diffusers.patch={patch}", "match=native",
        "--plugin", "h_patches", *more, f"store={folder}/store", f"results={folder}/results",
    ])  # fmt: skip
    (pair,) = json.loads((folder / "results" / "latest" / "verdict.json").read_text())["pairs"]
    return pair


def _causes(pair: Any) -> list[Any]:
    return [f for f in pair["findings"] if f["kind"] == "component"]


@pytest.mark.parametrize("patch", ["h_noise_by_count", "h_noise_after_some"])
def test_noise_that_depends_on_what_was_made_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch, patch: str
) -> None:
    pair = _run(folder, monkeypatch, "micro_2b_quick", patch)
    assert pair["verdict"] == "bug"
    assert _causes(pair)[0]["component"] == "noise"


def test_a_generator_that_is_not_handed_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = _run(folder, monkeypatch, "micro_5b_quick", "h_generator_dropped")
    assert pair["verdict"] == "bug"
    assert [f["component"] for f in _causes(pair)] == ["noise"]
    assert "step: the global one, the reference the passed one" in _causes(pair)[0]["detail"]


@pytest.mark.parametrize(
    ("patch", "module"),
    [("h_nan_now_and_then", "transformer_blocks.2.attn1"), ("h_wrong_now_and_then", "")],
)
def test_a_component_that_fails_in_some_calls(
    folder: Path, monkeypatch: pytest.MonkeyPatch, patch: str, module: str
) -> None:
    pair = _run(folder, monkeypatch, "micro_2b_quick", patch)
    assert pair["verdict"] in ("bug", "broken")
    cause = _causes(pair)[0]
    assert cause["component"] == "transformer"
    assert module in (cause["block"] or "")


def test_the_place_is_found_in_the_seed_that_broke(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = _run(folder, monkeypatch, "micro_2b_quick", "h_nan_now_and_then", "seeds=[0,1,2,3,4,5]")
    assert pair["verdict"] == "broken"
    (told,) = [e for e in pair["evidence"] if e["check"] == "native.candidate.finite"]
    assert (told["component"], told["outcome"]) == ("transformer", "differs")
    assert told["seed"] is not None and told["step"] is not None
    assert "transformer_blocks.2" in str(_causes(pair)[0]["block"])


@pytest.mark.parametrize("patch", ["h_clip_lost", "h_clip_mirrored"])
def test_a_source_clip_that_is_lost_is_no_noise(
    folder: Path, monkeypatch: pytest.MonkeyPatch, patch: str
) -> None:
    pair = _run(folder, monkeypatch, "micro_5b_v2v_quick", patch)
    assert pair["verdict"] == "bug"
    assert [f["component"] for f in _causes(pair)] == ["image_encoder"]
    assert "source clip" in _causes(pair)[0]["detail"]


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("call", ["randn", "randn_like", "normal_", "normal"])
def test_every_draw_notes_whose_generator_it_asked_for(call: str, named: bool) -> None:
    tape = NoiseTape(3)
    given: Any = {"generator": torch.Generator()} if named else {}
    with draws_from(tape), tape.stage("step", 0, 1, 1, (2, 3)):
        if call == "randn":
            torch.randn(2, 3, **given)
        elif call == "normal_":
            torch.empty(2, 3).normal_(**given)
        elif call == "normal":
            torch.normal(torch.zeros(2, 3), torch.ones(2, 3), **given)
        else:
            torch.randn_like(torch.zeros(2, 3), **given)
    assert tape.draws[0].generator == ("passed" if named else "global")
