"""Care of a store: check every byte of it, and remove what nothing needs.

Reading destroys nothing, and cleaning guesses nothing: what cannot be read is left alone, and whatever
is removed is looked at once more, and moved out of every reader's sight, just before.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from harness.errors import StoreError, UnreadableError, explained_reading
from harness.store.runs import Uses
from harness.store.store import KINDS, Store

State = Literal["whole", "damaged", "unreadable"]


@dataclass(frozen=True)
class Checked:
    """One thing in the store, and whether it is as it was written. `detail` says why it is unknown."""

    kind: str
    key: str
    state: State
    detail: str = ""


def verify(store: Store, threads: int) -> Iterator[Checked]:
    """Read every byte in the store; what is damaged is moved to `quarantine` and reported.

    Hashing leaves the interpreter free, so several threads read at once.
    """
    hidden: list[UnreadableError] = []
    things = [(kind, key) for kind in KINDS for key, _ in store.folders(kind, hidden.append)]
    with ThreadPoolExecutor(threads) as pool:
        kinds, keys = [kind for kind, _ in things], [key for _, key in things]
        yield from pool.map(partial(_checked, store.whole), kinds, keys)
    for key, _ in store.folders("pipelines", hidden.append):
        name = key.removesuffix(".json")
        yield _checked(lambda _, key: store.check_pipeline(key), "pipelines", name)
    for error in hidden:
        yield Checked("folders", "", "unreadable", str(error))


def _checked(whole: Callable[[str, str], bool], kind: str, key: str) -> Checked:
    try:
        return Checked(kind, key, "whole" if whole(kind, key) else "damaged")
    except UnreadableError as error:
        return Checked(kind, key, "unreadable", str(error))


@dataclass(frozen=True)
class Rubbish:
    """Something that can be removed, why, and what that frees. `still` looks at it once more."""

    path: Path
    reason: str
    size_bytes: int
    still: Callable[[], bool]

    def remove(self, store: Store) -> bool:
        """Delete it; False where it is needed after all. Raises `StoreError` when it stays."""
        if not self.still():
            return False
        aside = store.root / "staging" / f"removed-{secrets.token_hex(8)}"
        try:
            aside.parent.mkdir(exist_ok=True)
            self.path.rename(aside)
            shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreError(
                f"{self.path} could not be removed ({error.strerror}); check who may write there"
            ) from error
        return True


def leftovers(store: Store) -> Iterator[Rubbish]:
    """Unfinished work whose worker is gone.

    Whoever fills a folder in `staging` holds a lease on its key meanwhile.
    """
    for path in _entries(store.root / "staging"):
        key = path.name.partition("-")[0]
        if not store.leases.live(key):
            yield _rubbish(path, "left unfinished", lambda key=key: not store.leases.live(key))


def damaged(store: Store) -> Iterator[Rubbish]:
    """What was found damaged and moved away."""
    for path in _entries(store.root / "quarantine"):
        yield _rubbish(path, "damaged", lambda: True)


def failures(store: Store) -> Iterator[Rubbish]:
    """Attempts that failed; each would be made again by a run that wants it."""

    def failed(key: str) -> str | None:
        record = store.attempted(key)
        return record.status if record is not None and record.status != "ok" else None

    for key, folder in store.folders("renders"):
        if (status := failed(key)) is not None:
            yield _rubbish(folder, f"ended as {status}", lambda key=key: failed(key) is not None)


def unused(store: Store, uses: Uses) -> Iterator[Rubbish]:
    """Renders that no run names, and what only they need; never what is older than the first run
    that the store knows. Only inside `harness.store.runs.cleaning`."""
    needed: dict[str, set[str]] = {
        "renders": set(uses.renders),
        "inputs": set(),
        "pipelines": set(),
    }
    for key, path in store.folders("renders"):
        record = store.attempted(key)
        if key in uses.renders or _older(path, uses.since):
            needed["renders"].add(key)
            if record is not None:
                needed["inputs"] |= {k for k in (record.inputs_key, record.own_inputs_key) if k}
                needed["pipelines"] |= {record.pipeline_key} if record.pipeline_key else set[str]()
    for kind, keys in needed.items():
        for name, path in store.folders(kind):
            key = name.removesuffix(".json")
            if key not in keys and not _older(path, uses.since) and not store.leases.live(key):
                yield _rubbish(path, "named by no run", lambda key=key: not store.leases.live(key))


def _older(path: Path, since: float | None) -> bool:
    return since is not None and path.stat().st_mtime < since


def _entries(folder: Path) -> Iterable[Path]:
    with explained_reading(folder):
        return sorted(folder.iterdir()) if folder.is_dir() else []


def _rubbish(path: Path, reason: str, still: Callable[[], bool]) -> Rubbish:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return Rubbish(path, reason, sum(file.stat().st_size for file in files), still)
