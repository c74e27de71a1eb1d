"""The harness's end of the fork servers (`backends.worker.fork_server`): one for each kind of worker.

A server is started when the first worker of its kind is, and lives as long as this process. One that
died is replaced, and so is one whose sources have changed since. Workers are of one kind when they
have the interpreter, what it says of itself, the processors and the environment variables in common:
what reads a variable, and when, only its reader knows, and an interpreter may be a script that sets
some. They also open the same backend: what a worker is said to have read holds all that its server
imported, and is not to depend on what else was rendered before.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from threading import Lock
from typing import IO, Any

from harness.workers.process import cannot_start, close_pipes, lend_backends

_BOOT = (
    "import sys; sys.path[0:1] = [sys.argv[1]];"
    " from backends.worker.fork_server import main;"
    " main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))"
)
_NAME_BYTES = 32  # `NAME_BYTES` of the server
_LOADED = "loaded.json"  # `LOADED` of the server
_MOST_KINDS = 4
"""Servers kept; of more kinds than this, the one goes that has no worker for the longest time."""

_Variables = frozenset[tuple[str, str]]
_Kind = tuple[str, frozenset[int], _Variables, _Variables, str | None]


def start_forked(
    python: str,
    env: dict[str, str],
    said: dict[str, str],
    log: IO[bytes],
    plugin_paths: list[str],
    backend: str | None,
) -> ForkedWorker:
    """Fork a worker. It does not wait for a server that is still importing.

    `said` is what the interpreter says of itself now (`harness.workers.interpreter.describe_worker`).

    Raises `WorkerError` when there is no such interpreter.
    """
    processors = frozenset(os.sched_getaffinity(0))
    kind: _Kind = python, processors, frozenset(env.items()), frozenset(said.items()), backend
    with _servers.lock:
        return _servers.of(kind, env, log).fork(backend, {"plugin_paths": plugin_paths}, log)


class ForkedWorker:
    """A worker forked by `server`, which tells on `control` how it ended. A `StartedWorker`."""

    def __init__(
        self, server: _Server, control: socket.socket, stdin: IO[bytes], stdout: IO[bytes]
    ) -> None:
        self.stdin, self.stdout = stdin, stdout
        self._server, self._control = server, control
        self._heard = b""
        self._pid: int | None = None
        self._code: int | None = None

    def poll(self) -> int | None:
        self._listen(0)
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._code is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._listen(left) and timeout is not None:
                raise subprocess.TimeoutExpired("worker", timeout)
        return self._code

    def kill(self) -> None:
        self._listen(0)
        if self._pid is None:
            # Not forked yet: it will find nobody to tell its process id, and end.
            self._code = -signal.SIGKILL
        elif self._code is None:
            _kill_group(self._pid)

    def close(self) -> None:
        close_pipes(self)
        self._control.close()
        with _servers.lock:
            self._server.workers -= 1

    def _listen(self, timeout_s: float | None) -> bool:
        """Take in what is told within `timeout_s`; False if nothing was."""
        if self._code is not None:
            return True
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            if not selector.select(timeout_s):
                return False
        with contextlib.suppress(ConnectionResetError):
            if told := self._control.recv(4096):
                *lines, self._heard = (self._heard + told).split(b"\n")
                for line in lines:
                    said: dict[str, int] = json.loads(line)
                    self._pid = said.get("pid", self._pid)
                    self._code = said.get("code", self._code)
                return True
        # The server is gone. A worker that it had forked was killed by that.
        self._server.gone = True
        if self._pid is None:
            self._code = self._server.process.wait()
        else:
            _kill_group(self._pid)
            self._code = -signal.SIGKILL
        return True


class _Server:
    """One server process. Raises `WorkerError` when there is no such interpreter."""

    def __init__(self, python: str, env: dict[str, str], log: IO[bytes]) -> None:
        self.workers = 0
        self.gone = False
        self._lent = lend_backends()
        self._requests, theirs = socket.socketpair()
        with theirs:
            handed = theirs.fileno()
            try:
                # The log is the first worker's, whose last words are those of a server that fails.
                self.process = subprocess.Popen(
                    [python, "-c", _BOOT, str(self._lent), str(handed), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=env,
                    pass_fds=[handed],
                    start_new_session=True,
                )
            except OSError as error:
                self._requests.close()
                shutil.rmtree(self._lent)
                raise cannot_start(python, error) from error

    @property
    def alive(self) -> bool:
        # One that is being killed closes what it holds before it can be waited for.
        return not self.gone and self.process.poll() is None

    @property
    def stale(self) -> bool:
        """Whether a source that its workers would have has changed since it was imported."""
        try:
            loaded: dict[str, list[int]] = json.loads((self._lent / _LOADED).read_text())
        except FileNotFoundError:
            return False  # still importing, or nothing imported
        return any(_stamp(path) != stamp for path, stamp in loaded.items())

    def fork(self, backend: str | None, settings: dict[str, Any], log: IO[bytes]) -> ForkedWorker:
        name = (backend or "").encode()[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0")
        control, theirs = socket.socketpair()
        reads, stdin = os.pipe()
        stdout, writes = os.pipe()
        folder = os.open(".", os.O_PATH)
        handed = [reads, writes, log.fileno(), theirs.fileno(), folder]
        # A server that dies meanwhile closes `control`, where the worker's end is looked for.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(self._requests, [name], handed)
        theirs.close()
        for descriptor in (reads, writes, folder):
            os.close(descriptor)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            control.sendall(json.dumps(settings).encode())
            control.shutdown(socket.SHUT_WR)
        self.workers += 1
        return ForkedWorker(self, control, os.fdopen(stdin, "wb"), os.fdopen(stdout, "rb"))

    def ended(self) -> bool:
        """End a server that is to fork no more, once its last worker is gone."""
        if self.workers == 0:
            self.end()
        return self.workers == 0

    def end(self) -> None:
        self.leave()
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self._lent, ignore_errors=True)

    def leave(self) -> None:
        """Close this end, as a forked process does with what is its parent's."""
        self._requests.close()


class _Servers:
    """The servers of this process, by kind."""

    def __init__(self) -> None:
        self.lock = Lock()
        self._all: dict[_Kind, _Server] = {}
        self._retired: list[_Server] = []

    def of(self, kind: _Kind, env: dict[str, str], log: IO[bytes]) -> _Server:
        """The server of a kind, started if there is none that lives."""
        server = self._all.pop(kind, None)
        if server is not None and not server.alive:
            server.end()
            server = None
        if server is not None and server.stale:
            self._retired = [old for old in self._retired if not old.ended()] + [server]
            server = None
        if server is None:
            self._make_room()
            server = _Server(kind[0], env, log)
        self._all[kind] = server  # the last, as the one used last
        return server

    def _make_room(self) -> None:
        idle = [kind for kind, server in self._all.items() if server.workers == 0]
        for kind in idle[: max(0, len(self._all) - _MOST_KINDS + 1)]:
            self._all.pop(kind).end()

    def end(self) -> None:
        for server in (*self._all.values(), *self._retired):
            server.end()
        self._all.clear()
        self._retired.clear()

    def forget(self) -> None:
        """In a forked process: these are its parent's."""
        for server in (*self._all.values(), *self._retired):
            server.leave()
        self._all.clear()
        self._retired.clear()
        self.lock = Lock()  # another thread of the parent may have held it


_servers = _Servers()
atexit.register(_servers.end)
os.register_at_fork(after_in_child=_servers.forget)


def _stamp(path: str) -> list[int] | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
