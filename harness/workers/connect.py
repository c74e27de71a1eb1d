"""Something that answers worker requests: a process of its own, or this process.

A process is what users get: one variant cannot harm another, and may have its own interpreter. In this
process there is no such wall, but also no start-up: for a self-test that opens hundreds of pipelines,
and for pipelines that exist only as objects of the caller's.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.workers.client import RemoteError, WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Generator


class Connection(Protocol):
    """Answers requests. Raises `RemoteError` for a request that failed, `WorkerError` if it is gone."""

    def call(self, op: str, timeout_s: float, **arguments: Any) -> Any: ...


class Connector(Protocol):
    """Starts what answers for one variant of `backend`; leaving the context ends it."""

    def __call__(
        self,
        python: str | None,
        threads: int | None,
        log: Path,
        plugin_paths: list[str],
        backend: str | None,
    ) -> AbstractContextManager[Connection]: ...


@dataclass(frozen=True)
class _Local:
    worker: Any

    def call(self, op: str, timeout_s: float, **arguments: Any) -> Any:
        from backends.worker.worker import carry_out

        answer = carry_out(self.worker, op, arguments)
        if not answer["ok"]:
            raise RemoteError(answer)
        return answer["result"]


@contextmanager
def in_process(
    python: str | None,
    threads: int | None,
    log: Path,
    plugin_paths: list[str],
    backend: str | None,
) -> Generator[Connection]:
    """A `Connector` that answers in this process, in which nothing is started: no argument matters."""
    from backends.worker.worker import Worker

    worker = Worker()
    try:
        yield _Local(worker)
    finally:
        worker.close()


in_own_process: Connector = WorkerProcess
"""The `Connector` of ordinary runs."""
