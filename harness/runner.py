"""Carry out a plan: one worker per variant, one open model at a time, one render per key.

Whatever happens to a worker becomes a record. What the store already holds is not rendered again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from backends.base import RenderRequest
from backends.environment import describe
from harness import keys
from harness.connect import Connection, Connector, in_own_process
from harness.errors import WorkerError
from harness.finish import keep_frames
from harness.plan import Plan, RenderJob
from harness.records import PipelineRecord, RenderRecord, Status
from harness.store import Store
from harness.worker_client import RemoteError


@dataclass(frozen=True)
class ExecutionSettings:
    """How workers are run: seconds allowed per request, plugin modules, where their logs go.

    `connect` starts what answers for a variant; a process of its own unless told otherwise.
    """

    timeout_s: float
    plugins: tuple[str, ...]
    run_folder: Path
    connect: Connector = in_own_process


class ProgressSink(Protocol):
    """What the runner tells about its progress."""

    def start(self, total: int) -> None: ...
    def render_started(self, label: str) -> None: ...
    def render_finished(self, label: str, status: str, seconds: float) -> None: ...


def render(
    plan: Plan, store: Store, settings: ExecutionSettings, progress: ProgressSink
) -> list[tuple[RenderJob, RenderRecord]]:
    """Render every job of `plan` that the store lacks; return all of them in the plan's order.

    The reference's jobs come first in a plan, because they export the inputs that the others share.
    """
    shared: dict[str, str] = {}
    results: list[tuple[RenderJob, RenderRecord]] = []
    progress.start(len(plan.jobs))
    for _, group in groupby(plan.jobs, key=lambda job: (job.variant.name, job.repeat)):
        jobs = list(group)
        with _Lane(jobs, store, settings, shared) as lane:
            for job in jobs:
                label = f"{job.case.name} | {job.label} | seed {job.seed}"
                progress.render_started(label)
                started = time.perf_counter()
                record, fresh = lane.carry_out(job)
                status = record.status if fresh else f"{record.status}, from the store"
                progress.render_finished(label, status, time.perf_counter() - started)
                results.append((job, record))
    return results


class _Lane:
    """The jobs of one variant, and the worker that serves them once one is needed."""

    def __init__(
        self,
        jobs: Sequence[RenderJob],
        store: Store,
        settings: ExecutionSettings,
        shared: dict[str, str],
    ) -> None:
        self._store, self._settings, self._shared = store, settings, shared
        self._first = jobs[0]
        self._stack = ExitStack()
        self._worker: Connection | None = None
        self._environment: dict[str, str] | None = None
        self._open_model: str | None = None
        self._opened: dict[str, Any] = {}
        self._pipeline_key: str | None = None
        self._failures: dict[str, tuple[Status, str, str | None]] = {}

    def __enter__(self) -> _Lane:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def carry_out(self, job: RenderJob) -> tuple[RenderRecord, bool]:
        """The record of `job`, and whether it was made now rather than found."""
        try:
            environment = self._describe()
        except (WorkerError, RemoteError) as error:
            # Without an environment there is no true key; the record stays out of the store.
            return _failed(_blank(job, "", {}), *_reason(error)), True
        plugins = self._settings.plugins
        own = keys.inputs_key(job.case, job.variant, environment, job.threads, plugins)
        inputs = self._shared.get(job.case.name) if job.share else None
        missing = job.share and (inputs is None or not self._store.inputs_path(inputs).is_file())
        digest = None if missing or inputs is None else self._inputs_digest(inputs)
        key = keys.render_key(
            job.case, job.variant, environment, job.threads, plugins,
            job.seed, job.repeat, job.share, digest, job.trace, job.member,
        )  # fmt: skip
        blank = _blank(job, key, environment)
        if missing:
            return _failed(blank, "not_run", "the reference gave no inputs to share", None), True
        if job.exports:
            self._shared[job.case.name] = own
        found = self._store.find(key)
        if found is not None and self._store.inputs_path(own).is_file():
            return found, False
        record = self._attempt(job, blank.model_copy(update={"inputs_key": inputs}), own)
        return record, True

    def _attempt(self, job: RenderJob, blank: RenderRecord, own: str) -> RenderRecord:
        model = job.case.model
        if model not in self._failures:
            try:
                self._open(job)
                self._export(job, own)
                return self._render(job, blank, own)
            except (RemoteError, WorkerError) as error:
                failure = _reason(error)
                if self._open_model != model:
                    self._failures[model] = failure  # do not load a model again to fail again
                if isinstance(error, WorkerError):
                    self._forget_worker()
        else:
            failure = self._failures[model]
        record = _failed(blank, *failure)
        with self._store.staged("renders", blank.key) as folder:
            (folder / "record.json").write_text(record.model_dump_json(indent=1))
        return record

    def _forget_worker(self) -> None:
        """After a crash or a time-out the next job gets a fresh process."""
        self._stack.close()
        self._worker = self._open_model = None

    def _start(self) -> Connection:
        if self._worker is None:
            log = self._settings.run_folder / "logs" / f"{self._first.label}.log"
            plugin_paths = [str(Path.cwd())] if self._settings.plugins else []
            connect = self._settings.connect
            worker = connect(self._first.python, self._first.threads, log, plugin_paths)
            self._worker = self._stack.enter_context(worker)
        return self._worker

    def _describe(self) -> dict[str, str]:
        if self._environment is None:
            if self._first.python in (None, sys.executable):
                self._environment = describe()
            else:
                found: dict[str, str] = self._start().call("describe", self._settings.timeout_s)
                self._environment = found
        return self._environment

    def _open(self, job: RenderJob) -> None:
        if self._open_model == job.case.model:
            return
        self._open_model = None
        self._opened = self._start().call(
            "open",
            self._settings.timeout_s,
            variant=asdict(job.variant),
            model=job.case.model,
            plugins=list(self._settings.plugins),
            threads=job.threads,
        )
        record = PipelineRecord(**self._opened["identity"], policies=self._opened["policies"])
        self._pipeline_key = self._store.add_pipeline(record)
        self._open_model = job.case.model

    def _export(self, job: RenderJob, key: str) -> None:
        if self._store.inputs_path(key).is_file():
            return
        with self._store.staged("inputs", key) as folder:
            self._start().call(
                "export",
                self._settings.timeout_s,
                case=asdict(job.case),
                path=str(folder / "inputs.safetensors"),
            )

    def _render(self, job: RenderJob, blank: RenderRecord, own: str) -> RenderRecord:
        inputs = None if blank.inputs_key is None else self._store.inputs_path(blank.inputs_key)
        with self._store.staged("renders", blank.key) as folder:
            request = RenderRequest(
                case=job.case,
                seed=job.seed,
                inputs=None if inputs is None else str(inputs),
                share=list(job.share),
                trace=job.trace,
                folder=str(folder),
                member=job.member,
            )
            result = self._start().call(
                "render", self._settings.timeout_s, request=request.to_json()
            )
            frames = keep_frames(folder, result.pop("frames_digest"), job.case.fps)
            del result["draws"]
            record = RenderRecord.model_validate(
                {
                    **blank.model_dump(),
                    "status": "ok",
                    "frames": frames.model_dump(),
                    "pipeline_key": self._pipeline_key,
                    "own_inputs_key": own,
                    "open_s": self._opened["open_s"],
                    "guided_calls": len(result["steps"]),
                    **result,
                }
            )
            (folder / "record.json").write_text(record.model_dump_json(indent=1))
        return record

    def _inputs_digest(self, key: str) -> str:
        path = self._store.inputs_path(key)
        return keys.file_sha256(path) + keys.file_sha256(path.with_suffix(".json"))


def _blank(job: RenderJob, key: str, environment: dict[str, str]) -> RenderRecord:
    return RenderRecord(
        key=key,
        case=asdict(job.case),
        variant=asdict(job.variant),
        seed=job.seed,
        repeat=job.repeat,
        share=list(job.share),
        inputs_key=None,
        member=job.member,
        status="not_run",
        environment=environment,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _reason(error: RemoteError | WorkerError) -> tuple[Status, str, str | None]:
    if isinstance(error, RemoteError):
        return (
            ("unsupported" if error.outcome == "unsupported" else "error"),
            str(error),
            error.trace,
        )
    return "error", str(error), None


def _failed(blank: RenderRecord, status: Status, message: str, trace: str | None) -> RenderRecord:
    return blank.model_copy(update={"status": status, "message": message, "trace": trace})
