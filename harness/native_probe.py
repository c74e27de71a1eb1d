"""Every link of a finished native render, answered again by the reference's stages in float32.

A stage that agrees proves nothing about the loop that users run. So the reference is given what the
render's own loop handed to its transformer and its decoder, with the text and the schedule that this
render used, and says what should have come out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.base import Case, ScheduleTable
from backends.questions import Question
from harness.frames import read_frames
from harness.local_probe import FULL_PRECISION
from harness.plan import probe_steps
from harness.prober import Answers, Array, Prober, Shared, Target
from harness.records import RenderRecord
from harness.store import Store


@dataclass(frozen=True)
class Links:
    """One native render beside what the reference's float32 stages make of its inputs.

    `role` is `reference` or `candidate`. `trace` holds the render's tensors (see `backends.trace`),
    `frames` its uint8 frames (T, H, W, 3), `table` the schedule that it used.
    """

    role: str
    record: RenderRecord
    trace: Mapping[str, Array]
    frames: NDArray[np.uint8]
    table: ScheduleTable
    steps: tuple[int, ...]
    answers: Answers


def probe_links(
    prober: Prober,
    store: Store,
    case: Case,
    reference: Target,
    record: RenderRecord,
    role: str,
    member: str,
) -> Links:
    """Ask the reference about one finished render; `member` equalises a known difference."""
    trace = read_trace(store, record)
    steps = tuple(k for k in probe_steps(case.steps) if f"step_{k}.in" in trace)
    seed = record.seed
    questions = [
        Question("own", "own", seed=seed),
        Question("link", "predict", member=member, seed=seed, steps=steps, source="given"),
        Question("link.decode", "decode", sources=("given.final",)),
    ]
    given = {f"given.{k}.in": trace[f"step_{k}.in"] for k in steps}
    given["given.final"] = trace["final_latents"]
    with TemporaryDirectory(prefix="parity-links-") as folder:
        shared, table = _used(store, record, Path(folder))
        answers = prober.ask(reference.at(FULL_PRECISION), case, shared, questions, given)
    frames = read_frames(store.render_folder(record.key) / "frames.mkv")
    return Links(role, record, trace, frames, table, steps, answers)


def read_trace(store: Store, record: RenderRecord) -> dict[str, Array]:
    """A render's trace as float32 arrays. Raises `StoreError` when it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file  # numpy has no bfloat16

    from harness.errors import StoreError

    path = store.render_folder(record.key) / "trace.safetensors"
    try:
        return {name: tensor.float().numpy() for name, tensor in load_file(str(path)).items()}
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"the trace {path} is missing or damaged ({error}); delete its folder and render again"
        ) from error


def _used(store: Store, record: RenderRecord, folder: Path) -> tuple[Shared, ScheduleTable]:
    """The inputs that a render really used: shared factors from the reference, the rest its own."""
    from safetensors.torch import load_file, save_file

    shared, own = record.inputs_key, record.own_inputs_key or ""
    places = {True: store.inputs_path(shared or own), False: store.inputs_path(own)}
    tensors = {taken: load_file(str(path)) for taken, path in places.items()}
    metas: dict[bool, dict[str, Any]] = {
        taken: json.loads(path.with_suffix(".json").read_text()) for taken, path in places.items()
    }
    taken = {f: f in record.share for f in ("text", "unconditional", "schedule")}
    path = folder / "inputs.safetensors"
    save_file(
        {
            "text": tensors[taken["text"]]["text"].float(),
            "negative_text": tensors[taken["unconditional"]]["negative_text"].float(),
        },
        str(path),
    )
    meta = metas[taken["schedule"]]
    path.with_suffix(".json").write_text(json.dumps({**meta, "latent_dtype": "float32"}))
    found = Shared(path, ("text", "unconditional", "schedule"), "float32")
    return found, ScheduleTable(**meta["schedule"])
