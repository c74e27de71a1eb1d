"""A pair that is equal in every bit, of which one thing at a time is changed, and its store.

The candidate has files of its own, so that a change reaches one side alone, at the path that it had:
its checkpoint, its interpreter (a script), and the packages of its stack, links until one is changed.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.util import find_spec
from os import utime
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from diffusers import DiffusionPipeline

import backends
from backends.micro import model_path
from harness.config.compose import compose_tree
from harness.config.config import CandidateSpec, RunConfig, build
from harness.config.folders import conf_folders
from harness.records import PairResult, RenderRecord
from harness.render.addresses import Addresses
from harness.render.plan import make_plan
from harness.render.runner import ExecutionSettings, now, render
from harness.store.digests import folder_digests
from harness.store.store import Store
from harness.verdict import session
from harness.workers import interpreter
from harness.workers.interpreter import describe_worker

PACKAGES = ("diffusers", "transformers", "accelerate", "safetensors", "huggingface_hub")
"""The packages of the stack that the candidate has of its own."""

_SETTINGS = (
    "case=[micro_2b_quick]", "candidate=[]", "metrics=[psnr]", "judge.rerun=false",
    "judge.probe_seeds=[0,1]", "judge.calibration_seeds=[1000001]", "judge.max_seeds=1",
    "judge.shares=false", "reference.threads=1", "+backend@candidates.changed=diffusers",
    "candidates.changed.threads=1", "cases.micro_2b_quick.steps=2",
    "cases.micro_2b_quick.height=32", "cases.micro_2b_quick.width=32",
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One thing: a file of the pair's folder, options of the candidate, or a variable of its worker."""

    kind: str
    name: str
    file: str = ""
    edit: Callable[[bytes], bytes] = bytes
    options: Mapping[str, object] = field(default_factory=dict)
    variable: tuple[str, str] | None = None


class Pair:
    """The pair in `folder`, rendered and judged once, unchanged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "store")
        shutil.copytree(model_path("micro-2b"), folder / "model")
        # Before anything is rendered: the import sets variables of this process, which workers get.
        self.opened = DiffusionPipeline.from_pretrained(str(folder / "model"))
        _tune(folder)
        for package in PACKAGES:
            _link(package, folder / "overlay")
        _own_backends(folder / "lent")
        self._write_script()
        tree = compose_tree(
            [*_SETTINGS, f"candidates.changed.checkpoint={folder / 'model'}",
             f"candidates.changed.python={folder / 'python'}", f"store={self.store.root}",
             f"results={folder / 'results'}"],
            conf_folders(None),
        )  # fmt: skip
        self._config = build(tree)
        self.result = self.judged(self.candidate)
        record, served = self.rendered(self.candidate)
        assert served and record.status == "ok", record.message
        self.record, self.stages = record, self.stages_of(self.store, record)
        self.key = self.address(self.candidate)

    @property
    def candidate(self) -> CandidateSpec:
        """The candidate without a change."""
        return self._config.candidates[0]

    def config(self, candidate: CandidateSpec, store: Path | None = None) -> RunConfig:
        """A run that holds `candidate` against the reference."""
        changed = {"candidates": (candidate,), "store": store or self.store.root}
        return self._config.model_copy(update=changed)

    @contextmanager
    def changed(self, change: Change) -> Iterator[CandidateSpec]:
        """The candidate with `change`, in force inside the block."""
        options = {**self.candidate.options, **change.options}
        update: dict[str, object] = {"options": options}
        if options["placement"] != "full":
            update["backend"] = "diffusers_offload"
        with self._edited(change):
            self._write_script(change.variable)
            try:
                yield self.candidate.model_copy(update=update)
            finally:
                self._write_script()

    @contextmanager
    def _edited(self, change: Change) -> Iterator[None]:
        if not change.file:
            yield
            return
        path = self.folder / change.file
        original, times = path.read_bytes(), path.stat()
        link = path.readlink() if path.is_symlink() else None
        if link is not None:
            path.unlink()
        path.write_bytes(change.edit(original))
        if link is None:
            # As a copy that keeps times would; of a source, Python itself goes by them.
            utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        try:
            yield
        finally:
            if link is None:
                path.write_bytes(original)
                utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
            else:
                path.unlink()
                path.symlink_to(link)

    def _write_script(self, variable: tuple[str, str] | None = None) -> None:
        export = "" if variable is None else f"export {variable[0]}={variable[1]}\n"
        script = self.folder / "python"
        script.write_text(
            f"#!/bin/sh\n{export}export PYTHONDONTWRITEBYTECODE=1\n"
            f'PYTHONPATH={self.folder / "overlay"} exec {sys.executable} "$@"\n'
        )
        script.chmod(0o755)
        interpreter._said.clear()  # as in a run that starts now

    def rendered(
        self, candidate: CandidateSpec, store: Store | None = None
    ) -> tuple[RenderRecord, bool]:
        """The candidate's render, and whether any of it came from the store."""
        store, began = store or self.store, now()
        plan = make_plan(self.config(candidate))
        settings = ExecutionSettings(300, (), self.folder / "logs")
        with self._lending():
            record = render(plan, store, settings, Silent())[-1][1]
        inputs = record.own_inputs_key and store.inputs_path(record.own_inputs_key)
        older = bool(inputs) and _iso(inputs.stat().st_mtime) < began
        return record, record.created < began or older

    def rendered_alone(self, candidate: CandidateSpec) -> dict[str, str]:
        """The stages of the candidate in a store in which nothing is."""
        with TemporaryDirectory(prefix="one-thing-") as folder:
            store = Store(Path(folder))
            return self.stages_of(store, self.rendered(candidate, store)[0])

    def judged(self, candidate: CandidateSpec) -> PairResult:
        """The candidate's verdict, in the store in which everything else lies."""
        with self._lending():
            _, result = session.run(self.config(candidate), (), (), Silent())
        assert result is not None
        return result.pairs[0]

    def address(self, candidate: CandidateSpec) -> str:
        """The candidate's key as a run that starts now has it."""
        addresses = Addresses(Store(self.store.root), ())
        keys = [
            addresses.of(job, describe_worker(job.python, job.threads)).key
            for job in make_plan(self.config(candidate)).jobs
        ]
        return keys[-1]

    def probes(self) -> int:
        """How many answers to questions lie in the store."""
        return sum(1 for _ in (self.store.root / "probes").glob("*/*"))

    def reads(self) -> list[str]:
        """Every file that the candidate's render read."""
        return sorted(
            {
                path
                for name in (self.store.root / "reads").glob("*/*.json")
                for path in json.loads(name.read_text())["files"]
            }
        )

    @staticmethod
    def stages_of(store: Store, record: RenderRecord) -> dict[str, str]:
        """A digest of every stage: what the side itself would use, every step, latents and frames."""
        assert record.own_inputs_key and record.frames and record.latents_digest
        found = folder_digests(store.inputs_path(record.own_inputs_key).parent)
        found.pop("SHA256SUMS", None)
        found |= {f"denoiser, step {s.step}": s.velocity_digest for s in record.steps}
        found |= {f"latents, step {s.step}": s.latents_digest for s in record.steps}
        return found | {"latents": record.latents_digest, "frames": record.frames.float_digest}

    def _lending(self) -> AbstractContextManager[object]:
        """Within it, workers get the pair's copy of `backends`."""
        return patch.object(backends, "__file__", str(self.folder / "lent/backends/__init__.py"))


class Silent:
    """No progress is shown."""

    def start(self, total: int) -> None: ...
    def render_started(self, label: str) -> None: ...
    def render_finished(self, label: str, status: str, seconds: float) -> None: ...


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")


def _link(package: str, target: Path) -> None:
    """A folder tree of links to the files of an installed package, its bytecode included."""
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).parent
    shutil.copytree(
        source, target / package, copy_function=lambda old, new: Path(new).symlink_to(old)
    )


def _own_backends(target: Path) -> None:
    source = Path(backends.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__", "weights")
    shutil.copytree(source, target / "backends", ignore=ignored)
    (target / "backends/micro/weights").symlink_to(source / "micro/weights")


def _tune(folder: Path) -> None:
    """A transformer that was trained on: another value for the option `transformer`."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder / "model/transformer", folder / "tuned/transformer")
    weights = folder / "tuned/transformer/diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["proj_out.weight"] *= 1.01
    save_file(tensors, weights)
