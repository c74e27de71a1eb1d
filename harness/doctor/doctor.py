"""What works on this machine, found out by doing it: tiny renders, tiny scores, a tiny video.

Whatever imports a stack runs in a process of its own, so that a crash there is a row here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import harness
from backends import registry
from backends.base import DTYPES, Case, RenderRequest, TraceOptions, Variant
from backends.errors import MissingPrerequisite
from backends.worker.environment import describe
from backends.worker.extras import EXTRAS, command, missing
from harness.config.compose import compose_tree
from harness.config.config import VARIANT_KEYS
from harness.config.folders import choices, conf_folders
from harness.errors import WorkerError
from harness.workers.client import RemoteError, WorkerProcess

State = Literal["works", "unsupported", "fails"]
_TIMEOUT_S = 600.0
_LEAST_FREE_GIB = 1.0
_DEMO_BACKENDS = ("diffusers", "diffusers_offload", "sat")
# The smallest case that every stack can carry out: SAT decodes 8n+1 frames.
_CASE = Case(
    name="doctor", model="micro-2b", prompt="a red circle", negative_prompt="", frames=9, height=64,
    width=64, steps=2, guidance_scale=6.0, dynamic_guidance=False, sampler="ddim", fps=8,
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One thing that was tried. `needed` says that the demo cannot run without it."""

    area: str
    what: str
    state: State
    detail: str
    remedy: str = ""
    needed: bool = False


def examine(results: Path, announce: Callable[[str], None]) -> Iterator[Row]:
    """Try everything, one row each. `announce` is told what is tried next."""
    for name, value in describe().items():
        state: State = "unsupported" if value == "not installed" else "works"
        yield Row("environment", name, state, value)
    yield from _extras()
    announce("results folder")
    yield _writable(results)
    yield _disk_space(results)
    for probe in ("video", "metrics"):
        announce(probe)
        yield from _probe(probe)
    announce("devices")
    devices = list(_probe("devices"))
    yield from devices
    usable = list(dict.fromkeys(row.what.split()[0] for row in devices)) or ["cpu"]
    for backend in registry.names():
        try:
            registry.require(backend)
        except MissingPrerequisite as error:
            yield Row(f"backend {backend}", "not installed", "unsupported", str(error))
            continue
        for device in usable:
            announce(f"backend {backend} on {device}")
            yield from _backend(backend, device)


def _extras() -> Iterator[Row]:
    """Which extras are installed, and the command for each of the others."""
    for name, extra in EXTRAS.items():
        if absent := missing(name):
            detail = f"{extra.serves}: {', '.join(absent)} not installed"
            yield Row("extra", name, "unsupported", detail, command(name))
        else:
            yield Row("extra", name, "works", extra.serves)


def _existing(folder: Path) -> Path:
    """`folder`, or the nearest folder above it that exists."""
    folder = folder.resolve()
    return folder if folder.is_dir() else _existing(folder.parent)


def _writable(results: Path) -> Row:
    folder = _existing(results)
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            return Row("disk", "results folder", "works", f"{folder} can be written", needed=True)
    except OSError as error:
        remedy = "choose another folder with results=... and store=..."
        return Row(
            "disk", "results folder", "fails", f"{folder}: {error.strerror}", remedy, needed=True
        )


def _disk_space(results: Path) -> Row:
    folder = _existing(results)
    free_gib = shutil.disk_usage(folder).free / 2**30
    enough = free_gib >= _LEAST_FREE_GIB
    return Row(
        "disk",
        "free space",
        "works" if enough else "fails",
        f"{free_gib:.1f} GiB at {folder}",
        "" if enough else f"free at least {_LEAST_FREE_GIB:g} GiB, or choose another disk",
        needed=True,
    )


def _probe(name: str) -> list[Row]:
    """Rows that `harness.doctor.questions` prints, one JSON object a line; a crash is a row as well."""
    paths = [str(Path(harness.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "harness.doctor.questions", name],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        timeout=_TIMEOUT_S,
        check=False,
    )
    rows = [Row(**json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        rows.append(Row(name, "probe", "fails", last, "see `make` in the README", needed=True))
    return rows


def _backend(backend: str, device: str) -> Iterator[Row]:
    """Open the micro model and render it in every dtype, in a worker as a run would."""
    options = _shipped_options(backend)
    if "device" in options:
        options["device"] = device
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="parity-doctor-") as folder:
        worker: WorkerProcess | None = None
        for dtype in DTYPES:
            what = f"{device} {dtype}"
            needed = (device, dtype) == ("cpu", "float32") and backend in _DEMO_BACKENDS
            variant = Variant(backend, backend, {**options, "dtype": dtype})
            try:
                if worker is None:
                    log = Path(folder) / "worker.log"
                    worker = stack.enter_context(WorkerProcess(None, None, log, [], backend))
                detail = _render(worker, variant, Path(folder))
                yield Row(f"backend {backend}", what, "works", detail, needed=needed)
            except RemoteError as error:
                state: State = "unsupported" if error.outcome == "unsupported" else "fails"
                yield Row(f"backend {backend}", what, state, str(error), needed=needed)
                if error.kind == "MissingPrerequisite":
                    return  # the other dtypes miss it too
            except WorkerError as error:
                worker = None
                yield Row(f"backend {backend}", what, "fails", str(error), needed=needed)


def _render(worker: WorkerProcess, variant: Variant, folder: Path) -> str:
    opened = worker.call(
        "open",
        _TIMEOUT_S,
        variant=asdict(variant),
        model=_CASE.model,
        plugins=[],
        threads=None,
    )
    request = RenderRequest(_CASE, 0, None, [], TraceOptions([0]), str(folder)).to_json()
    rendered: dict[str, Any] = worker.call("render", _TIMEOUT_S, request=request)
    finite = all(step["latents_finite"] for step in rendered["steps"])
    timing = f"opened in {opened['open_s']:.1f} s, rendered in {rendered['render_s']:.1f} s"
    return timing if finite else f"{timing}, but its latents overflow"


def _shipped_options(backend: str) -> dict[str, Any]:
    """The options that `conf/backend/<backend>.yaml` gives; none for a backend from elsewhere."""
    folders = conf_folders(None)
    if backend not in choices("backend", folders):
        return {}
    values = compose_tree([f"+backend@doctor={backend}"], folders)["doctor"]
    return {key: value for key, value in values.items() if key not in VARIANT_KEYS}
