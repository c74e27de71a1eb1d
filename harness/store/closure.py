"""From what is declared to be in a result's key, to all that made it.

What a render or an answer depends on is known in part before it is made: its declared key. The rest a
worker tells afterwards (`backends.worker.reads`): files, folders, modules. That list lies under that
key, and the true key is made of the declared one and of the digests that everything in the list has now.
Nothing is reused whose list is not known.

    <store>/reads/<kk>/<hash>.json        a list; renders of one pipeline mostly have it in common
    <store>/known/<kk>/<declared>.json    which list belongs to a declared key
"""

from __future__ import annotations

import importlib
import json
import secrets
import time
from collections.abc import Callable
from importlib.machinery import PathFinder
from itertools import chain
from pathlib import Path
from typing import Any, TypedDict

from harness.errors import explained_writing
from harness.store.digests import file_digest, folder_digests, last_change_ns
from harness.store.store import Store, content_key

_FRESH_NS = 1_000_000_000
"""A list is digested again after this time; a thousand files are looked at in some milliseconds."""
_POLL_S = 0.5


class Reads(TypedDict):
    """What a worker read: `backends.worker.reads.report` without its time."""

    files: list[str]
    folders: list[str]
    modules: list[str]
    path: list[str]


class Closure:
    """The true keys of what is in a store. One object serves one run.

    What was made through this object keeps its key as long as the object lasts, whatever changes
    meanwhile: a run compares what it made itself.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._made: dict[str, str] = {}
        self._lists: dict[str, Reads] = {}
        self._states: dict[str, tuple[int, str]] = {}

    def key(self, declared: str) -> str | None:
        """The true key of what is declared as `declared`; None if it is not known what that reads."""
        if declared in self._made:
            return self._made[declared]
        found = self._read(self._path("known", declared))
        if found is None or not self._has_list(found["reads"]):
            return None
        return content_key({"declared": declared, "reads": self._state(found["reads"])})

    def learn(self, declared: str, told: dict[str, Any]) -> str:
        """Take in what the worker that made `declared` told; return the true key.

        Where something changed while the worker ran, nobody can say which of both it read: then the
        key is one that is never found again.
        """
        since = int(told["since_ns"])
        reads = Reads(
            files=told["files"],
            folders=told["folders"],
            modules=told["modules"],
            path=told["path"],
        )
        name = content_key(dict(reads))
        if not self._has_list(name):
            self._lists[name] = reads
            self._write(self._path("reads", name), dict(reads))
        # Where nothing changed since then, any digest made since is that of now.
        state = self._state(name, since)
        if _changed_since(reads, since):
            self._made[declared] = content_key(
                {"declared": declared, "once": secrets.token_hex(16)}
            )
        else:
            self._made[declared] = content_key({"declared": declared, "reads": state})
            self._write(self._path("known", declared), {"reads": name})
        return self._made[declared]

    def ensure(self, kind: str, declared: str, make: Callable[[Path], dict[str, Any]]) -> str:
        """Have what is declared as `declared`; return its true key.

        If it is not here, `make` fills a folder with it and returns what the worker read. Waits for
        another process that is making it, as `Store.ensure` does.
        """
        while True:
            key = self.key(declared)
            if key is not None and self._store.whole(kind, key):
                return key
            with self._store.leases.attempt(declared) as mine:
                if not mine:
                    time.sleep(_POLL_S)
                elif (key := self.key(declared)) is None or not self._store.whole(kind, key):
                    with self._store.staged(kind, declared, lambda: self._made[declared]) as folder:
                        self.learn(declared, make(folder))

    def _state(self, name: str, since_ns: int | None = None) -> str:
        """One digest over all that the list `name` names: as it is now, or was after `since_ns`."""
        oldest = time.time_ns() - _FRESH_NS if since_ns is None else since_ns
        at, state = self._states.get(name, (0, ""))
        if at < oldest:
            at, state = time.time_ns(), _digest(self._lists[name])
            self._states[name] = (at, state)
        return state

    def _has_list(self, name: str) -> bool:
        if name not in self._lists:
            found = self._read(self._path("reads", name))
            if found is None or content_key(found) != name:
                return False
            self._lists[name] = Reads(**found)
        return True

    def _path(self, kind: str, key: str) -> Path:
        return self._store.folder(kind, key).with_suffix(".json")

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            return json.loads(path.read_bytes())
        except (OSError, ValueError):
            return None  # as if nothing were known: it is made again

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        with explained_writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{secrets.token_hex(4)}")
            partial.write_text(json.dumps(content))
            partial.replace(path)


def _digest(reads: Reads) -> str:
    importlib.invalidate_caches()
    return content_key(
        {
            "files": {path: file_digest(path) for path in reads["files"]},
            "folders": {folder: folder_digests(folder) for folder in reads["folders"]},
            "modules": {name: _origin(name, reads["path"]) for name in reads["modules"]},
        }
    )


def _origin(name: str, path: list[str]) -> str | None:
    """Where a module would be imported from now: one that comes to lie before it takes its place."""
    spec = PathFinder.find_spec(name, path)
    return None if spec is None else spec.origin


def _changed_since(reads: Reads, since_ns: int) -> bool:
    beside = (f"{folder}/{name}" for folder in reads["folders"] for name in folder_digests(folder))
    return any(last_change_ns(path) > since_ns for path in chain(reads["files"], beside))
