"""Workers by fork: the stacks are imported once, and every worker is a copy of the process that did.

The harness starts this process with one end of a Unix socket pair, and sends it, for every worker it
wants, `NAME_BYTES` with the name of the backend that it will open, and the file descriptors `HANDED`.
A stack is imported when the first worker that opens it is asked for. The worker reads what it is given,
as JSON, from its control socket up to the end, and writes its process id there; how it ended is written
by this process, which reaps it. Both are one JSON object a line: {"pid": n}, {"code": n}.

Nothing here computes, because threads do not survive a fork. Those that OpenBLAS and Arrow start when
they are loaded are seen to by these libraries' own fork handlers.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from backends.worker import reads
from backends.worker.lifeline import end_with
from backends.worker.preload import import_always, import_stack

HANDED = ("stdin", "stdout", "log", "control", "folder")
"""The file descriptors that come with a request for a worker, in this order."""

NAME_BYTES = 32
"""Length of a request: a name, cut there, and zeros. No name asks for a stack that is not known."""

LOADED = "loaded.json"
"""In the lent folder: size, modification time and inode of the file of every imported module."""

_LOOK_FOR_PARENT_S = 1.0


def main(lent: str, handed: int, parent: int) -> None:
    """Serve the harness, process `parent`, on socket `handed`; in a forked process, be a worker.

    The server returns when the harness has closed its end or is gone; its workers end with it, and
    the folder `lent` with `backends` in it is removed.
    """
    with reads.listening():
        import_always()
    worker = _Server(socket.socket(fileno=handed), parent, lent).serve()
    if worker is None:
        shutil.rmtree(lent, ignore_errors=True)
        return
    worker.become()
    _work()


def _work() -> NoReturn:
    """Be a worker to its end, and end as an interpreter does but for taking itself down.

    That would copy every page of the server's, and tell in the log of what libraries leak.
    """
    code = 0
    try:
        import_module("backends.worker.worker").main()
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    import_module("atexit")._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


@dataclass(frozen=True)
class _Worker:
    """A forked process that is yet to become a worker: its descriptors, and who forked it."""

    server: int
    handed: Sequence[int]

    def become(self) -> None:
        """Take on what a worker started by itself would have. Its variables are the server's, which has
        those of its kind, what the interpreter adds (a script that exports some), and what imports add.
        """
        reads.begin()
        os.setsid()
        end_with(self.server)
        handed = dict(zip(HANDED, self.handed, strict=True))
        for number, name in enumerate(("stdin", "stdout", "log")):
            os.dup2(handed[name], number)
        os.fchdir(handed["folder"])
        with socket.socket(fileno=handed.pop("control")) as control:
            with control.makefile("rb") as settings:
                given = json.loads(settings.read())
            try:
                control.sendall(_line(pid=os.getpid()))
            except BrokenPipeError:  # the harness gave this worker up before it was there
                os._exit(1)
        for descriptor in handed.values():
            os.close(descriptor)
        sys.path += given["plugin_paths"]
        if numpy := sys.modules.get("numpy"):  # `random` does this by itself
            numpy.random.seed()


@dataclass
class _Server:
    requests: socket.socket
    parent: int
    lent: str
    controls: dict[int, socket.socket] = field(default_factory=dict[int, socket.socket])
    imported: set[str] = field(default_factory=set[str])

    def serve(self) -> _Worker | None:
        """Fork workers until nobody can ask for one. Returns a `_Worker` in each forked process."""
        wakes, woken = os.pipe()
        os.set_blocking(woken, False)
        signal.signal(signal.SIGCHLD, _nothing)  # without one, Python writes to no pipe
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        while os.getppid() == self.parent:
            # A forked sibling of the harness may keep the socket open: hence the look at the parent.
            ready, _, _ = select.select([self.requests, wakes], [], [], _LOOK_FOR_PARENT_S)
            if wakes in ready:
                os.read(wakes, 4096)
            self._reap()
            if self.requests not in ready:
                continue
            name, handed, _, _ = socket.recv_fds(self.requests, NAME_BYTES, len(HANDED))
            if len(handed) != len(HANDED):
                return None
            self._prepare(name.rstrip(b"\0").decode(errors="replace"))
            server, control = os.getpid(), handed[HANDED.index("control")]
            try:
                pid = os.fork()
            except OSError as error:
                _refuse(handed, error)
                continue
            if pid == 0:
                self._let_go(wakes, woken)
                return _Worker(server, handed)
            self.controls[pid] = socket.socket(fileno=control)
            for descriptor in handed:
                if descriptor != control:
                    os.close(descriptor)
        return None

    def _prepare(self, backend: str) -> None:
        """Import a backend's stack, if that is known and was not imported before."""
        if backend in self.imported:
            return
        self.imported.add(backend)
        with reads.listening():
            import_stack(backend)
        self._tell()
        sys.stdout.flush()
        gc.collect()
        gc.freeze()  # a collection in a worker would otherwise copy every page that it looks at

    def _tell(self) -> None:
        """Write down the sources that workers will have, for the harness to see if one changes."""
        partial = Path(self.lent, f"{LOADED}.partial")
        partial.write_text(json.dumps(reads.loaded()))
        partial.replace(partial.with_name(LOADED))

    def _reap(self) -> None:
        while self.controls:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            control = self.controls.pop(pid, None)
            if control is None:
                continue  # something that an import left behind
            with control, contextlib.suppress(OSError):
                control.sendall(_line(code=os.waitstatus_to_exitcode(status)))

    def _let_go(self, wakes: int, woken: int) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in (wakes, woken):
            os.close(descriptor)
        for held in (self.requests, *self.controls.values()):
            held.close()


def _refuse(handed: Sequence[int], error: OSError) -> None:
    with contextlib.suppress(OSError):
        os.write(handed[HANDED.index("log")], f"a worker cannot be forked: {error}\n".encode())
        os.write(handed[HANDED.index("control")], _line(code=1))
    for descriptor in handed:
        os.close(descriptor)


def _nothing(_number: int, _frame: object) -> None:
    pass


def _line(**what: int) -> bytes:
    return json.dumps(what).encode() + b"\n"
