"""Care of a store: check every byte of it, and remove what nothing needs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from harness.errors import StoreError
from harness.store import KINDS, Store


@dataclass(frozen=True)
class Checked:
    """One thing in the store, and whether it is as it was written."""

    kind: str
    key: str
    whole: bool


def verify(store: Store, threads: int) -> Iterator[Checked]:
    """Read every byte in the store; what is damaged is moved to `quarantine` and reported.

    Hashing leaves the interpreter free, so several threads read at once.
    """
    things = [(kind, key) for kind in KINDS for key, _ in store.folders(kind)]
    with ThreadPoolExecutor(threads) as pool:
        whole = pool.map(store.whole, *zip(*things, strict=True)) if things else iter(())
        for (kind, key), fine in zip(things, whole, strict=True):
            yield Checked(kind, key, fine)
    for key, _ in store.folders("pipelines"):
        yield Checked("pipelines", key.removesuffix(".json"), store.check_pipeline(key[:-5]))


@dataclass(frozen=True)
class Rubbish:
    """Something that can be removed, why, and what that frees."""

    path: Path
    reason: str
    size_bytes: int

    def remove(self) -> None:
        """Delete it."""
        if self.path.is_dir():
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.path.unlink(missing_ok=True)


def leftovers(store: Store) -> Iterator[Rubbish]:
    """Unfinished work whose worker is gone, and what was found damaged.

    Whoever fills a folder in `staging` holds a lease on its key meanwhile.
    """
    for path in _entries(store.root / "staging"):
        if not store.leases.live(path.name.partition("-")[0]):
            yield _rubbish(path, "left unfinished")
    for path in _entries(store.root / "quarantine"):
        yield _rubbish(path, "damaged")


def failures(store: Store) -> Iterator[Rubbish]:
    """Attempts that failed; each would be made again by a run that wants it."""
    for key, folder in store.folders("renders"):
        record = store.attempted(key)
        if record is not None and record.status != "ok":
            yield _rubbish(folder, f"ended as {record.status}")


def unused(store: Store, results: Path) -> Iterator[Rubbish]:
    """Renders that no run below `results` names, and what only they need.

    Raises: StoreError, when a run's verdict cannot be read: it might name anything.
    """
    named = {key for run in _runs(results) for key in _render_keys(run)}
    needed: dict[str, set[str]] = {"renders": named, "inputs": set(), "pipelines": set()}
    for key in named:
        record = store.attempted(key)
        if record is not None:
            needed["inputs"] |= {k for k in (record.inputs_key, record.own_inputs_key) if k}
            needed["pipelines"] |= {record.pipeline_key} if record.pipeline_key else set[str]()
    for kind, keys in needed.items():
        for name, path in store.folders(kind):
            key = name.removesuffix(".json")
            if key not in keys and not store.leases.live(key):
                yield _rubbish(path, "named by no run")


def _runs(results: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(results.glob("runs/*/verdict.json")):
        try:
            yield json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{path} cannot be read, so it is not known which renders it needs; mend or delete"
                " its folder first"
            ) from error


def _render_keys(run: dict[str, Any]) -> Iterator[str]:
    for pair in run["pairs"]:
        for by_seed in cast("dict[str, dict[str, str]]", pair["renders"]).values():
            yield from by_seed.values()


def _entries(folder: Path) -> Iterable[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _rubbish(path: Path, reason: str) -> Rubbish:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return Rubbish(path, reason, sum(file.stat().st_size for file in files))
