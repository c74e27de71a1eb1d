"""The harness's end of a worker process: ask it, and survive whatever happens to it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.errors import WorkerError
from harness.workers.interpreter import describe_worker, variables
from harness.workers.start import start

_LOG_TAIL = 2000
_MISSING = re.compile(r"^ModuleNotFoundError: No module named '([\w.]+)'\Z", re.MULTILINE)
"""How a worker ends whose interpreter lacks what its first modules import."""


class RemoteError(Exception):
    """A worker answered that a request failed. `trace` is None where the user can act on it."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(answer["message"])
        self.outcome: str = answer["outcome"]
        self.kind: str = answer["kind"]
        self.trace: str | None = answer["trace"]
        self.disk_full = "No space left on device" in str(self)
        self.out_of_memory = "OutOfMemory" in self.kind or "out of memory" in str(self)


class WorkerProcess:
    """One worker. Use as a context manager; leaving it ends the process and its children.

    `backend` is the one that it will open, if that is known: it makes the start faster.
    """

    def __init__(
        self,
        python: str | None,
        threads: int | None,
        log: Path,
        plugin_paths: list[str],
        backend: str | None = None,
    ) -> None:
        self._python = python or sys.executable
        self._log_path = log
        self._plugin_paths = plugin_paths
        self._backend = backend
        self._threads = threads
        self._env = variables(threads)

    def __enter__(self) -> WorkerProcess:
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log = self._log_path.open("ab")
        try:
            said = describe_worker(self._python, self._threads)
            self._process = start(
                self._python, self._env, said, self._log, self._plugin_paths, self._backend
            )
        except WorkerError:
            self._log.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end(patiently=kind is None)
        self._process.close()
        self._log.close()

    def _end(self, patiently: bool) -> None:
        if patiently and self._process.poll() is None:
            self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=20)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def call(self, op: str, timeout_s: float, **arguments: Any) -> Any:
        """Send one request and return its result.

        Raises `RemoteError` when the worker says it failed, `WorkerError` when it died, answered
        nonsense or took longer than `timeout_s`; after a `WorkerError` this worker is gone.
        """
        request = json.dumps({"op": op, **arguments}) + "\n"
        try:
            self._process.stdin.write(request.encode())
            self._process.stdin.flush()
            line = self._answer(time.monotonic() + timeout_s)
        except (BrokenPipeError, EOFError):
            code = self._process.wait()
            words = self._last_words()
            if missing := _MISSING.search(words):
                raise WorkerError(
                    f"the worker's interpreter {self._python} has no module {missing[1]!r}; install"
                    " torch, numpy, safetensors and the stack in it, or set `python` of this variant"
                    " to one that has them"
                ) from None
            reason = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            if code == -signal.SIGKILL:
                reason += ", as the kernel sends when memory runs out"
            raise WorkerError(
                f"the worker died during `{op}` ({reason}). Its last words ({self._log_path}):\n"
                + words
            ) from None
        except TimeoutError:
            self._end(patiently=False)
            raise WorkerError(
                f"the worker took longer than {timeout_s:g} s for `{op}` and was ended; raise"
                f" `timeout_s`, or look at {self._log_path}"
            ) from None
        answer = json.loads(line)
        if not answer["ok"]:
            raise RemoteError(answer)
        return answer["result"]

    def _answer(self, deadline: float) -> bytes:
        stream = self._process.stdout
        received = b""
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while not received.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                chunk = os.read(stream.fileno(), 1 << 16)
                if not chunk:
                    raise EOFError
                received += chunk
        return received

    def _last_words(self) -> str:
        return self._log_path.read_bytes()[-_LOG_TAIL:].decode(errors="replace").strip()
