"""A worker as a process of its own, and what every way of starting one needs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Protocol

import backends
from harness.errors import WorkerError

# The worker sees the folder given as its argument first and never the current folder, in which a
# user may have packages of the same names; plugins are looked up in the current folder last.
_BOOT = (
    "import sys; sys.path[0:1] = [sys.argv[1]]; sys.path += sys.argv[3:];"
    " from backends.worker.lifeline import end_with; end_with(int(sys.argv[2]));"
    " from backends.worker.worker import main; main()"
)


class StartedWorker(Protocol):
    """A worker that was started, with the pipes to talk to it."""

    @property
    def stdin(self) -> IO[bytes]: ...

    @property
    def stdout(self) -> IO[bytes]: ...

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code once it has ended. Raises `subprocess.TimeoutExpired`."""
        ...

    def kill(self) -> None:
        """End it and its children at once."""
        ...

    def close(self) -> None:
        """Give back what is held here for a worker that has ended."""
        ...


def lend_backends() -> Path:
    """A new folder with this project's `backends` in it, and not the packages beside it."""
    folder = Path(tempfile.mkdtemp(prefix="parity-worker-"))
    (folder / "backends").symlink_to(Path(backends.__file__).parent)
    return folder


def cannot_start(python: str, error: OSError) -> WorkerError:
    """What to tell of an interpreter that could not be started."""
    return WorkerError(
        f"cannot start the worker's interpreter {python!r}: {error.strerror};"
        " set `python` of this variant to an interpreter that exists"
    )


class OwnProcess:
    """A worker that is a process of its own from the beginning. A `StartedWorker`."""

    def __init__(
        self, python: str, env: dict[str, str], log: IO[bytes], plugin_paths: list[str]
    ) -> None:
        self._lent = lend_backends()
        try:
            self._process = subprocess.Popen(
                [python, "-c", _BOOT, str(self._lent), str(os.getpid()), *plugin_paths],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=env,
                start_new_session=True,
            )
        except OSError as error:
            shutil.rmtree(self._lent)
            raise cannot_start(python, error) from error

    @property
    def stdin(self) -> IO[bytes]:
        return _pipe(self._process.stdin)

    @property
    def stdout(self) -> IO[bytes]:
        return _pipe(self._process.stdout)

    def poll(self) -> int | None:
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int:
        return self._process.wait(timeout)

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        close_pipes(self)
        shutil.rmtree(self._lent)


def close_pipes(worker: StartedWorker) -> None:
    """Close both pipes; what a worker that has ended did not read is lost."""
    for pipe in (worker.stdin, worker.stdout):
        with contextlib.suppress(OSError):
            pipe.close()


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise WorkerError("the worker was started without pipes")
    return stream
