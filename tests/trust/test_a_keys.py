"""Kind A: nothing is taken from the store unless everything that made its bits is as it was."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from backends.base import Case, TraceOptions, Variant
from backends.micro import model_path
from backends.worker import reads
from backends.worker.environment import lasting
from harness.records import RenderRecord
from harness.render.plan import Plan, RenderJob
from harness.render.runner import ExecutionSettings, render
from harness.store import closure
from harness.store.closure import Closure
from harness.store.keys import inputs_key
from harness.store.store import Store
from harness.workers import interpreter

ROOT = Path(__file__).parents[2]
CASE = Case(
    name="tiny", model="", prompt="a red circle moving left on a white background",
    negative_prompt="", frames=5, height=32, width=32, steps=1, guidance_scale=6.0,
    dynamic_guidance=False, sampler="ddim", fps=8,
)  # fmt: skip
PLUGIN = """
from pathlib import Path
from backends.worker.patches import patch
from .scale import SCALE

@patch("scaled")
def scaled(pipeline):
    factor = SCALE * float((Path(__file__).parent / "factor.txt").read_text())
    pipeline.modules()["transformer.proj_out"].weight.data.mul_(factor)
"""
POISON = """
import torch
from backends.worker.patches import patch

_linear = torch.nn.functional.linear
torch.nn.functional.linear = lambda x, w, b=None: _linear(x, w, b) * 1.01

@patch("poisoned")
def poisoned(pipeline):
    pipeline.modules()["transformer.proj_out"].weight.data.mul_(1.5)
"""


@dataclasses.dataclass
class Bench:
    """A checkpoint with code beside it and a component behind a link, and a store."""

    folder: Path
    plugins: tuple[str, ...] = ()

    @property
    def model(self) -> Path:
        return self.folder / "checkpoint"

    def job(
        self, python: Path | None = None, patch: str | None = None, **options: Any
    ) -> RenderJob:
        variant = Variant("side", "diffusers", {"dtype": "float32", **options}, patch)
        case = dataclasses.replace(CASE, model=str(self.model))
        return RenderJob(
            "reference", case, variant, None if python is None else str(python), None, 0, 0, (),
            TraceOptions([0]),
        )  # fmt: skip

    def render(self, *jobs: RenderJob) -> list[tuple[RenderRecord, bool]]:
        """Each job's record, and whether it was rendered now."""
        told = _Told()
        settings = ExecutionSettings(180, self.plugins, self.folder / "run")
        found = render(Plan(jobs), Store(self.folder / "store"), settings, told)
        records = [record for _, record in found]
        assert [r.status for r in records] == ["ok"] * len(jobs), [r.message for r in records]
        return list(zip(records, told.fresh, strict=True))


class _Told:
    def __init__(self) -> None:
        self.fresh: list[bool] = []

    def start(self, total: int) -> None: ...
    def render_started(self, label: str) -> None: ...
    def render_finished(self, label: str, status: str, seconds: float) -> None:
        self.fresh.append("from the store" not in status)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path)
    shutil.copytree(model_path("micro-2b"), made.model)
    (made.model / "transformer").rename(tmp_path / "step-1000")
    (made.model / "transformer").symlink_to("../step-1000")
    (made.model / "train.py").write_text("raise SystemExit('never run')\n")
    return made


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """One render, of which the tests below change what made it, a thing at a time."""
    folder = tmp_path_factory.mktemp("rendered")
    made = Bench(folder)
    shutil.copytree(model_path("micro-2b"), made.model)
    made.render(made.job())
    return made


def scale_in_place(weights: Path, tensor: str, factor: float) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    tensors[tensor] = tensors[tensor] * factor
    save_file(tensors, weights)


def weights_of(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


# ---------------------------------------------------------------- done, and done again


def test_weights_changed_beside_code_and_behind_a_link(bench: Bench) -> None:
    (first, fresh), *_ = bench.render(bench.job())
    assert fresh
    assert bench.render(bench.job())[0] == (first, False)
    scale_in_place(weights_of(bench.folder / "step-1000"), "proj_out.weight", 1.5)
    (second, fresh), *_ = bench.render(bench.job())
    assert fresh and second.latents_digest != first.latents_digest
    shutil.copytree(bench.folder / "step-1000", bench.folder / "step-2000")
    scale_in_place(weights_of(bench.folder / "step-2000"), "proj_out.weight", 1.5)
    (bench.model / "transformer").unlink()
    (bench.model / "transformer").symlink_to("../step-2000")
    (third, fresh), *_ = bench.render(bench.job())
    assert fresh and third.latents_digest != second.latents_digest


def test_another_interpreter_of_equal_versions_and_then_its_source(bench: Bench) -> None:
    """A pull request against its base: equal versions, other code; then the same file once more."""
    (base, _), *_ = bench.render(bench.job())
    changed = overlay(bench.folder, "models/transformers/cogvideox_transformer_3d.py")
    python = bench.folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={bench.folder}/overlay exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    digests = [base.latents_digest]
    original = changed.read_text()
    for factor in ("1.5", "1.7"):
        text = original.replace(
            "self.proj_out(hidden_states)", f"self.proj_out(hidden_states) * {factor}"
        )
        assert text != original
        changed.write_text(text)
        (record, fresh), *_ = bench.render(bench.job(python))
        assert fresh and record.latents_digest not in digests
        assert lasting(record.environment) == lasting(base.environment)
        digests.append(record.latents_digest)


def overlay(folder: Path, changed: str) -> Path:
    """A copy of diffusers of which one file is the copy's own; returns that file."""
    spec = find_spec("diffusers")
    assert spec is not None and spec.origin is not None
    source, target = Path(spec.origin).parent, folder / "overlay" / "diffusers"
    for part in Path(changed).parts:
        target.mkdir(parents=True)
        for entry in source.iterdir():
            if entry.name not in (part, "__pycache__"):
                (target / entry.name).symlink_to(entry)
        source, target = source / part, target / part
    shutil.copy(source, target)
    return target


def test_a_plugin_counts_by_all_that_it_is_and_reads(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = bench.folder / "scaling_plugin"
    plugin.mkdir()
    (plugin / "__init__.py").write_text(PLUGIN)
    (plugin / "scale.py").write_text("SCALE = 1.5\n")
    (plugin / "factor.txt").write_text("1.0")
    (bench.folder / "poisonous.py").write_text(POISON)
    monkeypatch.syspath_prepend(bench.folder)
    monkeypatch.chdir(bench.folder)
    (clean, _), *_ = bench.render(bench.job())
    bench.plugins = ("poisonous", "scaling_plugin")
    (beside, fresh), (first, _) = bench.render(bench.job(), bench.job(patch="scaled"))
    assert (beside.latents_digest, fresh) == (clean.latents_digest, False)
    seen = {clean.latents_digest, first.latents_digest}
    (plugin / "scale.py").write_text("SCALE = 1.25\n")
    (second, fresh), *_ = bench.render(bench.job(patch="scaled"))
    assert fresh and second.latents_digest not in seen
    (plugin / "factor.txt").write_text("1.1")
    (third, fresh), *_ = bench.render(bench.job(patch="scaled"))
    assert fresh and third.latents_digest not in {*seen, second.latents_digest}
    # What only the plugin's import does, it does to variants that use it.
    shutil.rmtree(bench.folder / "store")
    (again, fresh), (poisoned, _) = bench.render(bench.job(), bench.job(patch="poisoned"))
    assert fresh and again.latents_digest == clean.latents_digest != poisoned.latents_digest


# ---------------------------------------------------------------- one thing at a time, not rendered


def _true_key(bench: Bench, job: RenderJob | None = None) -> str | None:
    job = job or bench.job()
    environment = interpreter.describe_worker(job.python, job.threads)
    declared = inputs_key(job.case, job.variant, environment, job.threads, bench.plugins)
    return Closure(Store(bench.folder / "store")).key(declared)


def _tried(what: str, tried: int, reused: list[str]) -> None:
    print(f"{what}: {tried} tried, {len(reused)} reused")
    assert tried and reused == []


def _model_changes(model: Path) -> Iterator[tuple[str, Path, bytes]]:
    """Every tensor with one bit changed, every key of every configuration without its value, every
    other file with one byte more."""
    for path in sorted(p for p in model.rglob("*") if p.is_file()):
        content = path.read_bytes()
        if path.suffix == ".safetensors":
            (length,) = struct.unpack("<Q", content[:8])
            header = json.loads(content[8 : 8 + length])
            header.pop("__metadata__", None)
            for name, entry in header.items():
                at = 8 + length + entry["data_offsets"][0]
                changed = bytes([content[at] ^ 1])
                yield f"{path.name}: {name}", path, content[:at] + changed + content[at + 1 :]
        elif path.suffix == ".json" and isinstance(document := json.loads(content), dict):
            for name in document:
                text = json.dumps({**document, name: "another"})
                yield f"{path.relative_to(model)}: {name}", path, text.encode()
        else:
            yield str(path.relative_to(model)), path, content + b" "


def test_every_tensor_and_every_setting_of_a_model_is_in_the_key(rendered: Bench) -> None:
    before = _true_key(rendered)
    assert before is not None
    tried, reused = 0, []
    for name, path, content in _model_changes(rendered.model):
        original = path.read_bytes()
        path.write_bytes(content)
        tried += 1
        if _true_key(rendered) == before:
            reused.append(name)
        path.write_bytes(original)
    assert _true_key(rendered) == before, "contents count, not times"
    _tried("tensors and settings", tried, reused)


def _lists(bench: Bench) -> list[dict[str, Any]]:
    paths = sorted((bench.folder / "store" / "reads").glob("*/*.json"))
    return [json.loads(path.read_text()) for path in paths]


def test_every_file_and_module_that_was_read_is_in_the_key(
    rendered: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of the stacks and of the interpreter are not touched: their digests are."""
    reads = _lists(rendered)[0]
    real = {path: closure.file_digest(path) for path in reads["files"]}
    origins = {name: closure._origin(name, reads["path"]) for name in reads["modules"]}
    monkeypatch.setattr(closure, "file_digest", lambda path: real[path])
    monkeypatch.setattr(closure, "_origin", lambda name, path: origins[name])
    before, reused = closure._digest(reads), []
    tried: list[tuple[dict[str, Any], str]] = [(real, path) for path in reads["files"][::40]]
    tried += [(real, path) for path in reads["files"] if str(ROOT / "backends") in path]
    tried += [(origins, name) for name in reads["modules"][::5]]
    for state, name in tried:
        kept, state[name] = state[name], "another"
        if closure._digest(reads) == before:
            reused.append(name)
        state[name] = kept
    assert closure._digest(reads) == before
    _tried("files and modules", len(tried), reused)


def test_what_ran_is_among_what_was_read(rendered: Bench) -> None:
    """Sources of every package that takes part, the libraries behind them, and the project's own."""
    files = "\n".join(path for reads in _lists(rendered) for path in reads["files"])
    for wanted in (
        "diffusers/models/transformers/cogvideox_transformer_3d.py",
        "diffusers/schedulers/scheduling_ddim_cogvideox.py",
        "transformers/models/t5/modeling_t5.py",
        "safetensors/torch.py",
        "tokenizers/__init__.py",
        "libtorch_cpu.so",
        "backends/diffusers/run.py",
        "backends/noise.py",
        "libpython|bin/python",
    ):
        assert re.search(wanted, files), wanted


def _switches() -> list[str]:
    """Every variable that the sources of the stacks ask for, and those that libraries read."""
    native = {"ATEN_CPU_CAPABILITY", "MKL_CBWR", "NVIDIA_TF32_OVERRIDE", "ONEDNN_MAX_CPU_ISA",
              "CUBLAS_WORKSPACE_CONFIG", "LD_PRELOAD", "PYTHONHASHSEED", "PYTHONOPTIMIZE"}  # fmt: skip
    asked = re.compile(r"(?:getenv|environ(?:\.get)?)[\[(]\s*[\"']([A-Z][A-Z0-9_]+)[\"']")
    for package in ("diffusers", "accelerate", "safetensors", "transformers", "huggingface_hub"):
        spec = find_spec(package)
        assert spec is not None and spec.origin is not None
        for path in Path(spec.origin).parent.rglob("*.py"):
            native |= set(asked.findall(path.read_text(errors="replace")))
    return sorted(native)


def test_every_switch_that_a_worker_gets_is_in_the_key(
    rendered: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = interpreter.describe_worker(None, None)
    monkeypatch.setattr(interpreter, "_said", {})
    monkeypatch.setattr(interpreter, "_ask", lambda python, passed: (said, passed, 2))
    plain, before = interpreter.describe_worker(None, None), interpreter.variables(None)
    tried, reused = 0, []
    for name in _switches():
        with monkeypatch.context() as patch:
            patch.setenv(name, "another")
            reaches = interpreter.variables(None) != before
            tried += reaches
            if reaches and interpreter.describe_worker(None, None) == plain:
                reused.append(name)
    _tried("variables", tried, sorted({*reused} - interpreter._UNKEYED))


@pytest.mark.parametrize("name", ["CI", "PYTEST_CURRENT_TEST", "SSH_CLIENT", "GITHUB_RUN_ID"])
def test_a_variable_that_is_in_no_key_does_not_reach_a_worker(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "17")
    assert name not in interpreter.variables(None)


def test_threads_are_keyed_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    keyed = []
    for count in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", count)
        environment = interpreter.describe_worker(None, None)
        assert environment["threads"] == count
        assert interpreter.variables(None)["OMP_NUM_THREADS"] == count
        keyed.append(environment)
    assert keyed[0] != keyed[1]
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert (
        interpreter.variables(None)["OMP_NUM_THREADS"]
        == interpreter.describe_worker(None, None)["threads"]
    )


OPTIONS = {
    path.stem: {
        name: value
        for name, value in yaml.safe_load(path.read_text()).items()
        if name not in ("backend", "defaults", "patch", "python", "threads")
    }
    for path in sorted((ROOT / "conf" / "backend").glob("*.yaml"))
}


def test_every_option_of_every_backend_is_in_the_key(tmp_path: Path) -> None:
    """By value, and where the value names a file or folder, by what lies there."""
    tried, reused = 0, []
    file, folder = tmp_path / "given.yaml", tmp_path / "given"
    folder.mkdir()
    (folder / "link").symlink_to(file)

    def key(backend: str, options: dict[str, Any]) -> str:
        case = dataclasses.replace(CASE, model="micro-2b")
        return inputs_key(case, Variant("v", backend, options), {}, 1, ())

    for backend, options in {**OPTIONS, "somebody_else": {"reads": None}}.items():
        for name in options:
            file.write_text("one")
            named = [key(backend, {**options, name: str(path)}) for path in (file, folder)]
            file.write_text("two")
            after = [key(backend, {**options, name: str(path)}) for path in (file, folder)]
            tried += 3
            plain = key(backend, options)
            if key(backend, {**options, name: "another"}) == plain:
                reused.append(f"{backend}.{name}")
            reused += [
                f"{backend}.{name} names" for a, b in zip(named, after, strict=True) if a == b
            ]
    _tried("options", tried, reused)


CACHES: dict[str, Callable[[Path], tuple[str, Path]]] = {
    "HF_HUB_CACHE": lambda root: (str(root), root),
    "HUGGINGFACE_HUB_CACHE": lambda root: (str(root), root),
    "HF_HOME": lambda root: (str(root), root / "hub"),
    "XDG_CACHE_HOME": lambda root: (str(root), root / "huggingface" / "hub"),
}


@pytest.mark.parametrize("variable", CACHES)
@pytest.mark.parametrize("named_by", ["model", "transformer", "an option of another package"])
def test_a_branch_that_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, named_by: str
) -> None:
    for other in CACHES:
        monkeypatch.delenv(other, raising=False)
    value, hub = CACHES[variable](tmp_path)
    monkeypatch.setenv(variable, value)
    options = {"revision": "nightly"}
    case = dataclasses.replace(CASE, model="micro-2b")
    if named_by == "model":
        case = dataclasses.replace(CASE, model="someone/something")
    else:
        options[named_by] = "someone/something"

    def key() -> str:
        return inputs_key(case, Variant("v", "diffusers", options), {}, 1, ())

    keys = [key()]
    refs = hub / "models--someone--something" / "refs"
    refs.mkdir(parents=True)
    for commit in ("1" * 40, "2" * 40):
        (refs / "nightly").write_text(commit)
        keys.append(key())
    assert len(set(keys)) == 3


def test_a_module_that_comes_to_lie_before_another_is_seen(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    (second / "some_stack.py").write_text("")
    reads = closure.Reads(files=[str(second / "some_stack.py")], folders=[],
                          modules=["some_stack"], path=[str(first), str(second)])  # fmt: skip
    before = closure._digest(reads)
    (first / "some_stack.py").write_text("")
    assert closure._digest(reads) != before


def test_what_changed_while_it_was_read_is_never_found_again(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text("1")
    told = {"files": [str(source)], "folders": [], "modules": [], "path": [], "since_ns": 0}
    store = Store(tmp_path / "store")
    made = Closure(store)
    key = made.learn("declared", told)
    assert made.key("declared") == key, "a run keeps what it made"
    assert Closure(store).key("declared") is None


# ---------------------------------------------------------------- what a worker tells


def test_a_file_named_by_a_file_is_told_and_all_beside_it(tmp_path: Path) -> None:
    """A configuration that names weights by an absolute path: no option says where they lie."""
    from safetensors.numpy import save_file

    for name in ("t5", "vae", "asked"):
        (tmp_path / name).mkdir()
    weights = tmp_path / "t5" / "model.safetensors"
    save_file({"a": np.zeros(1)}, weights)
    (tmp_path / "vae" / "config.json").write_text("{}")
    (tmp_path / "vae" / "tokenizer.bin").write_bytes(b"read by native code")
    (tmp_path / "asked" / "given.json").write_text("{}")
    config = tmp_path / "sat.yaml"
    config.write_text(str(weights))
    with reads.listening():
        import safetensors

        with safetensors.safe_open(config.read_text(), "numpy") as stream:
            stream.keys()
        (tmp_path / "vae" / "config.json").read_text()
        (tmp_path / "asked" / "given.json").read_text()
        (tmp_path / "made").write_text("1")
        (tmp_path / "made").read_text()
    reads.hand(str(tmp_path / "asked" / "given.json"))
    told = reads.report()
    assert {str(config), str(weights), str(tmp_path / "vae" / "config.json")} <= set(told["files"])
    assert {str(tmp_path), str(tmp_path / "t5"), str(tmp_path / "vae")} <= set(told["folders"])
    assert not {str(tmp_path / "asked"), str(tmp_path / "made")} & {
        *told["folders"],
        *told["files"],
    }
    kept = {key: told[key] for key in ("files", "folders", "modules", "path")}
    before = closure._digest(closure.Reads(**kept))
    (tmp_path / "vae" / "tokenizer.bin").write_bytes(b"other bytes")
    assert closure._digest(closure.Reads(**kept)) != before
