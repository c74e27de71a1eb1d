"""Put questions to pipelines, one open at a time, and keep every answer in the store.

A probe is repeated only when something it depends on changes, so the reference's answers serve every
candidate that is compared with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from backends.base import Case, Variant
from backends.stages.questions import Question
from harness.config.config import VariantSpec
from harness.errors import StoreError, WorkerError
from harness.judge.measured import Answers, Array
from harness.records import PipelineRecord
from harness.store import keys
from harness.store.closure import Closure
from harness.store.integrity import file_sha256
from harness.store.store import Store
from harness.workers.connect import Connection, Connector
from harness.workers.interpreter import describe_worker


@dataclass(frozen=True)
class Target:
    """One way to open a pipeline: the variant, and where its worker runs."""

    variant: Variant
    python: str | None
    threads: int | None

    @staticmethod
    def of(spec: VariantSpec) -> Target:
        """As a configuration has it."""
        variant = Variant(spec.name, spec.backend, spec.options, spec.patch)
        return Target(variant, spec.python, spec.threads)

    def at(self, precision: Mapping[str, Any]) -> Target:
        """The same pipeline with other options, where the backend has them."""
        known = {k: v for k, v in precision.items() if k in self.variant.options}
        options = self.variant.options | known
        return replace(self, variant=replace(self.variant, options=options))


@dataclass(frozen=True)
class Shared:
    """What a probed run is given: an inputs file, the factors to take from it, a latent dtype."""

    inputs: Path | None = None
    share: tuple[str, ...] = ()
    latent_dtype: str | None = None


class Prober:
    """Answers questions from the store or from a worker. Use as a context manager.

    Raises `RemoteError` when a pipeline could not be opened or could not answer, `WorkerError` when
    its process died. `fresh_calls` counts the guided calls made now rather than found in the store.
    """

    def __init__(
        self,
        store: Store,
        connect: Connector,
        plugins: Sequence[str],
        timeout_s: float,
        logs: Path,
    ) -> None:
        self._store, self._connect, self._plugins = store, connect, tuple(plugins)
        self._timeout_s, self._logs = timeout_s, logs
        self._stack = ExitStack()
        self._connection: Connection | None = None
        self._opened: tuple[Target, str] | None = None
        self._identity: dict[str, Any] = {}
        self._closure = Closure(store)
        self.fresh_calls = 0

    def __enter__(self) -> Prober:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def ask(
        self,
        target: Target,
        case: Case,
        shared: Shared,
        questions: Sequence[Question],
        given: Mapping[str, Array],
    ) -> Answers:
        """The answers of `target` to `questions` about `case`; `given` are the tensors they name."""
        key = self._closure.ensure(
            "probes",
            self._key(target, case, shared, questions, given),
            lambda staged: self._answer(target, case, shared, questions, given, staged),
        )
        return _read(self._store.folder("probes", key))

    def reopen(self) -> None:
        """Let the next question that the store does not answer open its pipeline anew."""
        self._close()

    def _key(
        self,
        target: Target,
        case: Case,
        shared: Shared,
        questions: Sequence[Question],
        given: Mapping[str, Array],
    ) -> str:
        inputs = shared.inputs
        return keys.probe_key(
            case,
            target.variant,
            describe_worker(target.python, target.threads),
            target.threads,
            self._plugins,
            [question.to_json() for question in questions],
            {name: _digest(array) for name, array in given.items()},
            None
            if inputs is None
            else [file_sha256(inputs), file_sha256(inputs.with_suffix(".json"))],
            [*sorted(shared.share), str(shared.latent_dtype)],
        )

    def _answer(
        self,
        target: Target,
        case: Case,
        shared: Shared,
        questions: Sequence[Question],
        given: Mapping[str, Array],
        folder: Path,
    ) -> dict[str, Any]:
        from safetensors.numpy import save_file

        connection = self._open(target, case.model)
        path = folder / "given.safetensors"
        save_file({name: np.ascontiguousarray(array) for name, array in given.items()}, path)
        result = connection.call(
            "probe",
            self._timeout_s,
            case=asdict(case),
            questions=[question.to_json() for question in questions],
            given=str(path),
            inputs=None if shared.inputs is None else str(shared.inputs),
            share=list(shared.share),
            latent_dtype=shared.latent_dtype,
            path=str(folder / "answers.safetensors"),
        )
        path.unlink()
        self.fresh_calls += int(result["guided_calls"])
        record = {**result, "pipeline": self._identity}
        (folder / "answers.json").write_text(json.dumps(record))
        return connection.call("reads", self._timeout_s)

    def _open(self, target: Target, model: str) -> Connection:
        if self._opened != (target, model):
            connection = self._start(target)
            opened = connection.call(
                "open",
                self._timeout_s,
                variant=asdict(target.variant),
                model=model,
                plugins=list(self._plugins),
                threads=target.threads,
            )
            self._identity = {**opened["identity"], "policies": opened["policies"]}
            self._opened = (target, model)
            return connection
        return self._connected()

    def _start(self, target: Target) -> Connection:
        """A fresh connection: one pipeline at a time, and none inherits another's state."""
        self._close()
        paths = [str(Path.cwd())] if self._plugins and target.variant.patch else []
        log = self._logs / f"probe-{target.variant.name}.log"
        self._connection = self._stack.enter_context(
            self._connect(target.python, target.threads, log, paths, target.variant.backend)
        )
        return self._connection

    def _connected(self) -> Connection:
        if self._connection is None:
            raise WorkerError("no worker is connected although a pipeline counts as open")
        return self._connection

    def _close(self) -> None:
        self._stack.close()
        self._connection = self._opened = None


def _digest(array: Array) -> str:
    return hashlib.sha256(f"{array.shape}".encode() + array.tobytes()).hexdigest()


def _read(folder: Path) -> Answers:
    from safetensors import SafetensorError
    from safetensors.torch import load_file  # numpy has no bfloat16

    try:
        tensors = load_file(str(folder / "answers.safetensors"))
        result = json.loads((folder / "answers.json").read_text())
    except (OSError, ValueError, SafetensorError) as error:
        raise StoreError(
            f"the probe {folder} is damaged ({error}); delete the folder and probe again"
        ) from error
    return Answers(
        PipelineRecord(**result["pipeline"]),
        {name: tensor.float().numpy() for name, tensor in tensors.items()},
        result["facts"],
        result["guided_calls"],
    )
