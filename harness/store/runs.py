"""Which runs use a store: the store itself keeps where their folders lie.

    <store>/runs/<id>.json       the run folder; written before the run's first render
    <store>/runs/<id>.renders    the keys of its renders, as far as it got to write them down
    <store>/leases/run-*         while a run is going on

What counts as used therefore depends on no working directory. A run announces itself and then looks
for a cleaning; a cleaning announces itself and then looks for runs. Whichever comes second sees the
first, so a run waits and a cleaning is refused.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from harness.errors import StoreError, explained_reading, explained_writing
from harness.store.store import Store

_CLEANING = "cleaning"
_GOING_ON = "run-"
_POLL_S = 0.5


@contextmanager
def at_work(store: Store) -> Generator[None]:
    """Say, inside the block, that renders in `store` are being made or asked for."""
    with store.leases.attempt(_GOING_ON + secrets.token_hex(8)):
        while store.leases.live(_CLEANING):
            time.sleep(_POLL_S)
        yield


@contextmanager
def using(store: Store, folder: Path) -> Generator[None]:
    """Register the run in `folder`, and say inside the block that it is going on."""
    with at_work(store):
        _write(store, f"{_id(folder)}.json", json.dumps({"folder": str(folder.resolve())}))
        yield


def note_renders(store: Store, folder: Path, keys: Collection[str]) -> None:
    """Write down which renders the run in `folder` asked for: it may never come to a verdict."""
    _write(store, f"{_id(folder)}.renders", "".join(f"{key}\n" for key in sorted({*keys} - {""})))


@contextmanager
def cleaning(store: Store) -> Generator[None]:
    """Keep new runs waiting inside the block. Raises `StoreError` while a run is going on."""
    with store.leases.attempt(_CLEANING) as mine:
        if not mine:
            raise StoreError(f"another process is cleaning {store.root}; wait until it has ended")
        if any(store.leases.live(key) for key in store.leases.keys(_GOING_ON)):
            raise StoreError(
                f"a run is going on that uses {store.root}. Which renders it needs is not known before"
                " it ends, so nothing was removed; repeat then"
            )
        yield


@dataclass(frozen=True)
class Uses:
    """`renders` are the keys that runs name; what is older than `since` may have other users.

    `since` is a modification time of the store's file system; None: every user is known.
    """

    renders: frozenset[str]
    since: float | None


def uses(store: Store, results: Collection[Path], forget_missing: bool) -> Uses:
    """What the registered runs, and those below the folders `results`, name.

    `forget_missing`: a registered run whose folder is gone needs nothing any more. Raises
    `StoreError` where it is not known what a run needs.
    """
    files = _files(store)
    beside = {path.parent.name: path for root in results for path in _verdicts(root)}
    if not files and not beside:
        raise StoreError(
            f"no run is registered with {store.root}, so it is not known what is used; say with"
            " --results where its runs lie"
        )
    named = {key for path in beside.values() for key in _named(path)}
    for path in files:
        folder = _folder_of(path)
        named |= _noted(path)
        if folder.is_dir():
            named |= set(_named(folder / "verdict.json"))
        elif folder.name not in beside and not forget_missing:
            raise StoreError(
                f"the run folder {folder}, which uses {store.root}, is not there. If it was moved,"
                " say with --results where it lies now; if it was deleted, repeat with"
                " --forget-missing. Nothing was removed"
            )
    oldest = min((path.stat().st_mtime for path in files), default=None)
    return Uses(frozenset(named), None if results else oldest)


def forget(store: Store) -> int:
    """Drop the registrations of runs whose folders are gone; return how many."""
    gone = [path for path in _files(store) if not _folder_of(path).is_dir()]
    for path in gone:
        with explained_writing(path):
            path.unlink(missing_ok=True)
            path.with_suffix(".renders").unlink(missing_ok=True)
    return len(gone)


def _id(folder: Path) -> str:
    where = str(folder.resolve())
    return f"{folder.name}-{hashlib.sha256(where.encode()).hexdigest()[:12]}"


def _write(store: Store, name: str, text: str) -> None:
    path = store.root / "runs" / name
    with explained_writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{name}.partial")
        partial.write_text(text)
        partial.replace(path)


def _files(store: Store) -> list[Path]:
    root = store.root / "runs"
    with explained_reading(root):
        return sorted(root.glob("*.json")) if root.is_dir() else []


def _folder_of(path: Path) -> Path:
    try:
        return Path(json.loads(path.read_bytes())["folder"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StoreError(
            f"{path} does not say where its run lies ({type(error).__name__}); delete it if that run"
            " is gone. Nothing was removed"
        ) from error


def _noted(path: Path) -> set[str]:
    renders = path.with_suffix(".renders")
    with explained_reading(renders):
        return set(renders.read_text().split()) if renders.exists() else set()


def _verdicts(results: Path) -> list[Path]:
    if not results.is_dir():
        raise StoreError(f"--results {results}: there is no such folder")
    return sorted(results.glob("runs/*/verdict.json"))


def _named(verdict: Path) -> Iterator[str]:
    """The renders that a verdict names; none where the run ended without one."""
    try:
        run: dict[str, Any] = json.loads(verdict.read_bytes())
        pairs = [cast("dict[str, dict[str, str]]", pair["renders"]) for pair in run["pairs"]]
    except FileNotFoundError:
        return
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StoreError(
            f"{verdict} cannot be read, so it is not known which renders it needs; mend or delete its"
            " folder first"
        ) from error
    for renders in pairs:
        for by_seed in renders.values():
            yield from by_seed.values()
