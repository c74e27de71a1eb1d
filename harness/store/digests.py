"""Digests of files and folders, read again only where the file system says that something changed."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from harness.store.integrity import file_sha256

_UNSETTLED_NS = 2_000_000_000
"""A file that changed less than this ago can change again within one tick of the file system's clock
(4 ms here, a second on some network file systems), so its digest is not remembered."""

_DERIVED = ("__pycache__", ".git")
"""Folders below a given one that nothing is computed from: bytecode follows its source."""

_MISSING = "missing"


class _Digests:
    """Digests by path, size, times and inode; kept in the user's cache between processes."""

    def __init__(self) -> None:
        self._known: dict[str, list[str | int]] | None = None
        self._changed = False

    def of(self, path: str) -> str:
        """SHA-256 of what lies at `path`, links followed. Raises `OSError`."""
        status = os.stat(path)
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        known = self._all().get(path)
        if known is not None and known[1:] == stamp:
            return str(known[0])
        digest = file_sha256(Path(path))
        if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _UNSETTLED_NS:
            self._all()[path] = [digest, *stamp]
            self._changed = True
        return digest

    def save(self) -> None:
        """Keep what was read; a cache that cannot be written is read again."""
        if self._changed and self._known is not None:
            path = _cache_file()
            partial = path.with_suffix(f".{secrets.token_hex(4)}")
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                partial.write_text(json.dumps(_stored() | self._known))
                partial.replace(path)

    def _all(self) -> dict[str, list[str | int]]:
        if self._known is None:
            self._known = _stored()
        return self._known


def _cache_file() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return home / "parity" / "digests.json"


def _stored() -> dict[str, list[str | int]]:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return dict(json.loads(_cache_file().read_text()).items())
    return {}


_digests = _Digests()
atexit.register(_digests.save)


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, links followed; "missing", or "unreadable" with the reason."""
    try:
        return _digests.of(str(path))
    except FileNotFoundError:
        return _MISSING
    except OSError as error:
        return f"unreadable: {error.strerror}"


def last_change_ns(path: str) -> int:
    """When a file's content or place changed last, in nanoseconds; 0 if it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return 0
    return max(status.st_mtime_ns, status.st_ctime_ns)


def folder_digests(folder: str | Path) -> dict[str, str]:
    """The digest of every file directly in `folder`, by name."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_file())
    except OSError:
        return {}
    return {name: file_digest(os.path.join(folder, name)) for name in names}


def tree_digests(root: str | Path) -> dict[str, str]:
    """The digest of every file below `root`, by relative path; links are followed, each once."""
    return {
        os.path.join(os.path.relpath(folder, root), name): digest
        for folder in _folders(str(root))
        for name, digest in folder_digests(folder).items()
    }


def _folders(root: str) -> Iterator[str]:
    for folder, below, _ in os.walk(root, followlinks=True):
        above, here = os.path.realpath(os.path.dirname(folder)), os.path.realpath(folder)
        if folder != root and f"{above}/".startswith(f"{here}/"):  # a link to a folder above
            below.clear()
            continue
        below[:] = sorted(name for name in below if name not in _DERIVED)
        yield folder
