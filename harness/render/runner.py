"""Carry out a plan: one worker per variant, one open model at a time, one render per key.

Whatever happens to a worker becomes a record. What the store already holds is not rendered again.
What another process is rendering is passed over and looked at again later, so that any number of
processes share the work; nobody waits for a lease while holding one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from backends.base import RenderRequest, Variant
from harness.errors import DiskFullError, WorkerError
from harness.records import PipelineRecord, RenderRecord, Status
from harness.render.addresses import Address, Addresses
from harness.render.board import Board
from harness.render.finish import keep_frames
from harness.render.plan import Plan, RenderJob
from harness.store.store import Store
from harness.workers.client import RemoteError
from harness.workers.connect import Connection, Connector, in_own_process
from harness.workers.interpreter import describe_worker

_POLL_S = 0.5


@dataclass(frozen=True)
class ExecutionSettings:
    """How workers are run: seconds allowed per request, plugin modules, where their logs go.

    `connect` starts what answers for a variant; a process of its own unless told otherwise.
    """

    timeout_s: float
    plugins: tuple[str, ...]
    run_folder: Path
    connect: Connector = in_own_process


@dataclass(frozen=True)
class SweepShare:
    """What a run knows of the sweep that it is part of: all its jobs, and when it began.

    A render that failed since then is not tried again. `board` is told of every finished render.
    """

    since: str
    jobs: tuple[RenderJob, ...] = ()
    board: Board | None = None


class ProgressSink(Protocol):
    """What the runner tells about its progress."""

    def start(self, total: int) -> None: ...
    def render_started(self, label: str) -> None: ...
    def render_finished(self, label: str, status: str, seconds: float) -> None: ...


def now() -> str:
    """The time as records state it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def lane_of(job: RenderJob) -> tuple[Variant, str | None, int | None, int]:
    """Equal for jobs that one worker can serve."""
    return job.variant, job.python, job.threads, job.repeat


def render(
    plan: Plan,
    store: Store,
    settings: ExecutionSettings,
    progress: ProgressSink,
    sweep: SweepShare | None = None,
) -> list[tuple[RenderJob, RenderRecord]]:
    """Render every job of `plan` that the store lacks; return all of them in the plan's order.

    The reference's jobs come first in a plan, because they export the inputs that the others share.
    Jobs of the same sweep that need a model which is open for the plan's own are rendered while it
    is, so that a sweep opens each model once per worker.
    """
    sweep = sweep or SweepShare(since=now())
    common = _Common(store, settings, Addresses(store, settings.plugins), progress, sweep)
    done: dict[int, RenderRecord] = {}
    progress.start(len(plan.jobs))
    while pending := [at for at in range(len(plan.jobs)) if at not in done]:
        before = len(done)
        for _, group in groupby(pending, key=lambda at: lane_of(plan.jobs[at])):
            lane_jobs = list(group)
            with _Lane(plan.jobs[lane_jobs[0]], common) as lane:
                for at in lane_jobs:
                    awaited = any(
                        other.exports and other.source == plan.jobs[at].source and index not in done
                        for index, other in enumerate(plan.jobs)
                    )
                    record = lane.carry_out(plan.jobs[at], awaited)
                    if record is not None:
                        done[at] = record
                lane.carry_out_beside(sweep.jobs)
        if len(done) == before:
            progress.render_started(f"waiting for {len(pending)} renders of other processes")
            time.sleep(_POLL_S)
    return [(job, _as_asked(done[at], job)) for at, job in enumerate(plan.jobs)]


@dataclass(frozen=True)
class _Common:
    """What all lanes of one run have in common."""

    store: Store
    settings: ExecutionSettings
    addresses: Addresses
    progress: ProgressSink
    sweep: SweepShare


class _Lane:
    """The jobs of one variant, and the worker that serves them once one is needed."""

    def __init__(self, first: RenderJob, common: _Common) -> None:
        self._first, self._common = first, common
        self._store, self._settings = common.store, common.settings
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

    def carry_out(self, job: RenderJob, awaited: bool) -> RenderRecord | None:
        """The record of `job`; None while another process is at work on it or on its inputs.

        `awaited`: the reference's inputs may still come from a job that is not done yet.
        """
        label = f"{job.case.name} | {job.label} | seed {job.seed}"
        self._common.progress.render_started(label)
        started = time.perf_counter()
        outcome = self._outcome(job, awaited)
        if outcome is None:
            return None
        record, fresh = outcome
        if self._common.sweep.board is not None:
            self._common.sweep.board.finished(record.key, fresh)
        status = record.status if fresh else f"{record.status}, from the store"
        self._common.progress.render_finished(label, status, time.perf_counter() - started)
        return record

    def carry_out_beside(self, jobs: Sequence[RenderJob]) -> None:
        """Render those of `jobs` for which the right model is open and which nobody has tried."""
        for job in jobs:
            if lane_of(job) != lane_of(self._first) or self._environment is None:
                continue
            address = self._common.addresses.of(
                job, self._environment
            )  # a candidate may ask for it
            if (
                self._open_model == job.case.model
                and not address.missing
                and self._store.attempted(address.key) is None
            ):
                self.carry_out(job, awaited=True)

    def _outcome(self, job: RenderJob, awaited: bool) -> tuple[RenderRecord, bool] | None:
        try:
            environment = describe_worker(job.python, job.threads)
            self._environment = environment
        except (WorkerError, RemoteError) as error:
            # Without an environment there is no true key; the record stays out of the store.
            return _failed(_blank(job, "", {}), *_reason(error)), True
        address = self._common.addresses.of(job, environment)
        blank = _blank(job, address.key, environment)
        if address.missing:
            if awaited:
                return None
            return _failed(blank, "not_run", "the reference gave no inputs to share", None), True
        if (known := self._known(address)) is not None:
            return known, False
        with self._store.leases.attempt(address.declared) as mine:
            if not mine:
                return None
            address = self._common.addresses.of(job, environment)
            if (known := self._known(address)) is not None:  # made a moment ago
                return known, False
            blank = blank.model_copy(update={"key": address.key, "inputs_key": address.inputs})
            return self._attempt(job, blank, address), True

    def _known(self, address: Address) -> RenderRecord | None:
        """The finished render, or an attempt that failed since this sweep began."""
        found = self._store.find(address.key)
        if found is not None:
            return found if address.own and self._store.has_inputs(address.own) else None
        failed = self._store.attempted(address.key)
        return failed if failed is not None and failed.created >= self._common.sweep.since else None

    def _attempt(self, job: RenderJob, blank: RenderRecord, address: Address) -> RenderRecord:
        model = job.case.model
        if model not in self._failures:
            try:
                self._open(job)
                own = self._export(job, address.own_declared)
                # Where only the inputs were lost the render itself is there already.
                return self._store.find(blank.key) or self._render(job, blank, own, address)
            except (RemoteError, WorkerError) as error:
                if isinstance(error, RemoteError) and error.disk_full:
                    raise DiskFullError(self._store.root) from error
                failure = _reason(error)
                if self._open_model != model:
                    self._failures[model] = failure  # do not load a model again to fail again
                if isinstance(error, WorkerError) or error.out_of_memory:
                    self._forget_worker()
        else:
            failure = self._failures[model]
        record = _failed(blank, *failure)
        record = record.model_copy(update={"key": self._learned(address.declared)})
        with self._store.staged("renders", record.key) as folder:
            (folder / "record.json").write_text(record.model_dump_json(indent=1))
        return record

    def _learned(self, declared: str) -> str:
        """The true key of an attempt that failed; the declared one where no worker is left to tell."""
        try:
            return declared if self._worker is None else self._learn(declared)
        except (RemoteError, WorkerError):
            self._forget_worker()
            return declared

    def _learn(self, declared: str) -> str:
        told = self._start().call("reads", self._settings.timeout_s)
        return self._common.addresses.closure.learn(declared, told)

    def _forget_worker(self) -> None:
        """After a crash, a time-out or a full memory the next job gets a fresh process."""
        self._stack.close()
        self._worker = self._open_model = None

    def _start(self) -> Connection:
        if self._worker is None:
            log = self._settings.run_folder / "logs" / f"{self._first.label}.log"
            connect, first = self._settings.connect, self._first
            patched = self._settings.plugins and first.variant.patch is not None
            plugin_paths = [str(Path.cwd())] if patched else []
            worker = connect(first.python, first.threads, log, plugin_paths, first.variant.backend)
            self._worker = self._stack.enter_context(worker)
        return self._worker

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

    def _export(self, job: RenderJob, declared: str) -> str:
        """Have what the variant itself uses in the store; return its key."""

        def make(folder: Path) -> dict[str, Any]:
            self._start().call(
                "export",
                self._settings.timeout_s,
                case=asdict(job.case),
                path=str(folder / "inputs.safetensors"),
            )
            return self._start().call("reads", self._settings.timeout_s)

        return self._common.addresses.closure.ensure("inputs", declared, make)

    def _render(
        self, job: RenderJob, blank: RenderRecord, own: str, address: Address
    ) -> RenderRecord:
        inputs = None if blank.inputs_key is None else self._store.inputs_path(blank.inputs_key)
        key = blank.key
        with self._store.staged("renders", address.declared, lambda: key) as folder:
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
            key = self._learn(address.declared)
            frames = keep_frames(folder, result.pop("frames_digest"), job.case.fps)
            result["generators"] = _generators(result.pop("draws"))
            record = RenderRecord.model_validate(
                {
                    **blank.model_dump(),
                    "key": key,
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


def _as_asked(record: RenderRecord, job: RenderJob) -> RenderRecord:
    """The record under the names that this plan gives; another plan may have made the render.

    Names are in no key, so that equal renders are shared; the stored ones say who came first.
    """
    return record.model_copy(update={"case": asdict(job.case), "variant": asdict(job.variant)})


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
        created=now(),
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


def _generators(draws: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Which generators a stack asked for its draws of each stage."""
    found: dict[str, list[str]] = {}
    for draw in draws:
        asked = found.setdefault(draw["stage"], [])
        if draw["generator"] is not None and draw["generator"] not in asked:
            asked.append(draw["generator"])
    return {stage: sorted(asked) for stage, asked in found.items() if asked}
