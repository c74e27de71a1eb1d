"""What this process read: files opened, modules imported, libraries mapped.

Nobody has to remember what a stack reads: Python tells of every file that it opens (an audit hook) and
of every module that it holds, the kernel of every library that is mapped. Native readers (of tokenizers,
say) open files without telling; they are covered by naming the whole folder of every file that was
opened outside the interpreter, and that of weights is made to tell. What this process wrote itself
follows from the rest: it is left out.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import backends

_NO_FILES = ("/proc/", "/sys/", "/dev/", "/run/")
"""Views of the kernel, not files: what they say of hardware is in `backends.worker.environment`."""
_NO_SIBLINGS = ("/etc", "/usr", "/lib", "/lib64", "/bin", "/opt", "/var", "/tmp", "/home", "/")
"""Folders of a system, in which the files beside one that was read have nothing to do with it."""

_opened: set[str] = set()
_written: set[str] = set()
_handed: set[str] = set()
_since: list[int] = [time.time_ns()]


@dataclass
class _State:
    hooked: bool = False
    listening: int = 0


_state = _State()


@contextmanager
def listening() -> Generator[None]:
    """Note what is opened inside the block: around a request, or what prepares for requests."""
    if not _state.hooked:  # once a process, as a hook cannot be taken away
        _state.hooked = True
        sys.addaudithook(_note)
        _hear_safetensors()
    _state.listening += 1
    try:
        yield
    finally:
        _state.listening -= 1


def begin() -> None:
    """What changes from now on has changed while this process ran: a forked worker begins here."""
    _since[0] = time.time_ns()


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if not _state.listening:
        return
    if event == "open":
        path, _, flags = arguments
        reads = (flags or 0) & os.O_ACCMODE == os.O_RDONLY
        _take(path, _opened if reads else _written)
    elif event == "os.rename":
        _take(arguments[1], _written)
    elif event == "subprocess.Popen":  # a compiler, say
        _take(shutil.which(os.fsdecode(arguments[0])) if arguments[0] else None, _opened)


def _take(path: object, into: set[str]) -> None:
    if isinstance(path, (str, bytes, os.PathLike)):
        into.add(os.path.abspath(os.fsdecode(path)))


def _hear_safetensors() -> None:
    """Weights are opened by native code that tells no hook: its only way in is made to tell."""
    try:
        import safetensors
    except ImportError:
        return
    native = safetensors.safe_open

    def safe_open(filename: str | os.PathLike[str], *rest: Any, **named: Any) -> Any:
        _take(filename, _opened)
        return native(filename, *rest, **named)

    for module in list(sys.modules.values()):
        if vars(module).get("safe_open") is native:
            module.__dict__["safe_open"] = safe_open


def hand(path: str) -> None:
    """Count the folder of `path` as what a request gave or asked for, which its sender knows.

    It holds for this process to its end, as does what was opened.
    """
    _handed.add(f"{os.path.realpath(os.path.dirname(path))}/")


def report() -> dict[str, Any]:
    """`files` and `folders` that made what this process is and gave, as absolute paths; where its
    imported `modules` were looked for (`path`); and since when a change came too late (`since_ns`).
    """
    given = tuple(_handed)
    sources = _module_files()
    data = {
        path
        for path in _opened - _written
        if not path.endswith((".pyc", ".py"))
        and not path.startswith(_NO_FILES)
        and not os.path.realpath(path).startswith(given)
        and os.path.isfile(path)
    }
    code = {file for path in _opened if path.endswith(".py") and (file := _archive(path))}
    interpreter = (f"{sys.prefix}/", f"{sys.base_prefix}/")
    alone = (*_NO_SIBLINGS, str(Path.home()))
    folders = {
        _true(folder)
        for folder in map(os.path.dirname, data)
        if not folder.startswith(interpreter) and folder not in alone
    }
    return {
        "files": sorted({_true(path) for path in sources | code | data | _mapped()}),
        "folders": sorted(folders),
        "modules": sorted({name.partition(".")[0] for name in list(sys.modules)}),
        "path": [entry for entry in sys.path if entry and entry != _lent()],
        "since_ns": _since[0],
    }


def loaded() -> dict[str, list[int]]:
    """The size, modification time and inode of every file read so far; nothing for one that changed
    after this process began."""
    found: dict[str, list[int]] = {}
    for path in report()["files"]:
        try:
            status = os.stat(path)
        except OSError:  # a library's temporary file
            continue
        times = [status.st_mtime_ns, status.st_ctime_ns]
        found[path] = [] if max(times) > _since[0] else [status.st_size, status.st_ino, *times]
    return found


def _module_files() -> set[str]:
    named = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return {file for name in named if isinstance(name, str) and (file := _archive(name))}


@cache
def _archive(path: str) -> str:
    """The file itself, or the archive that it lies in; empty if neither is there."""
    path = os.path.abspath(path)
    while not os.path.isfile(path):
        if os.path.isdir(path) or path == os.path.dirname(path):
            return ""
        path = os.path.dirname(path)
    return path


def _mapped() -> set[str]:
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as stream:
            lines = [line.split(maxsplit=5) for line in stream]
    except OSError:
        return set()
    paths = {line[5].strip() for line in lines if len(line) == 6 and "x" in line[1]}
    return {file for path in paths if path.startswith("/") and (file := _archive(path))}


@cache
def _lent() -> str:
    """The folder through which a worker sees this project's `backends`; another for every worker."""
    return os.path.dirname(os.path.dirname(os.path.abspath(backends.__file__)))


@cache
def _true(path: str) -> str:
    """A path that is the same in every worker."""
    lent = f"{_lent()}/"
    return os.path.realpath(path) if path.startswith(lent) else path
