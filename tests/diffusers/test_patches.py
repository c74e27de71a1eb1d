"""The patch seam: plugins named on the command line alter an opened pipeline."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_driving import native
from small_renders import CASE, Full, opened

from backends.errors import InvalidRequest
from backends.worker import patches

PLUGIN = """
from backends.worker.patches import patch

@patch("{name}_in_place")
def in_place(pipeline):
    with __import__("torch").no_grad():
        pipeline.modules()["transformer.proj_out"].weight.mul_(1.01)

@patch("{name}_wrapped")
def wrapped(pipeline):
    class Wrapper:
        def __init__(self, inner):
            self.inner = inner
        def __getattr__(self, name):
            return getattr(self.inner, name)
    return Wrapper(pipeline)
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    name = f"plugin_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(PLUGIN.format(name=name))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(patches, "_registered", {})
    yield name
    sys.modules.pop(name, None)


def test_a_plugin_registers_its_patches(plugin: str) -> None:
    assert patches.load_plugin(plugin) == [f"{plugin}_in_place", f"{plugin}_wrapped"]
    assert patches.load_plugin(plugin) == patches.names(), "loading twice is harmless"


def test_none_means_altered_in_place(plugin: str, full: Full) -> None:
    patches.load_plugin(plugin)
    pipeline = opened()
    assert patches.apply(f"{plugin}_in_place", pipeline) is pipeline
    changed = pipeline.identity().weights
    assert {k for k, v in full.identity.weights.items() if changed[k] != v} == {
        "transformer.proj_out.weight"
    }
    assert not torch.equal(native(pipeline, CASE).frames, full.render.frames)
    pipeline.close()


def test_a_returned_pipeline_takes_its_place(plugin: str, full: Full) -> None:
    patches.load_plugin(plugin)
    wrapped: Any = patches.apply(f"{plugin}_wrapped", full.pipeline)
    assert wrapped is not full.pipeline and wrapped.inner is full.pipeline
    assert torch.equal(native(wrapped, CASE).frames, full.render.frames)


def test_an_unknown_patch_is_named(plugin: str) -> None:
    with pytest.raises(InvalidRequest, match="--plugin"):
        patches.apply("anything", None)  # type: ignore[arg-type]
    patches.load_plugin(plugin)
    with pytest.raises(InvalidRequest, match=f"did you mean '{plugin}_in_place'"):
        patches.apply(f"{plugin}_inplace", None)  # type: ignore[arg-type]


def test_a_plugin_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "registers_nothing.py").write_text("")
    with pytest.raises(InvalidRequest, match="registers no patch"):
        patches.load_plugin("registers_nothing")
    for name in ("no_such_plugin", "no.such.plugin", "sys"):
        with pytest.raises(InvalidRequest, match="importable module"):
            patches.load_plugin(name)


def test_two_plugins_may_not_share_a_name(plugin: str) -> None:
    patches.load_plugin(plugin)
    with pytest.raises(InvalidRequest, match="rename one"):
        patches.patch(f"{plugin}_wrapped")(lambda pipeline: None)
