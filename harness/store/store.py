"""The run store: renders, exported inputs and pipeline identities, addressed by content.

    <root>/renders/<kk>/<key>/   record.json  frames.mkv  preview.mp4  trace.safetensors  SHA256SUMS
    <root>/inputs/<kk>/<key>/    inputs.safetensors  inputs.json  SHA256SUMS
    <root>/probes/<kk>/<key>/    answers.safetensors  answers.json  SHA256SUMS
    <root>/pipelines/<kk>/<key>.json
    <root>/leases/               who is at work on what (`harness.store.lease`)
    <root>/runs/                 which runs use this store (`harness.store.runs`)
    <root>/staging/              unfinished work; nothing else ever looks there
    <root>/quarantine/           what was found damaged, each with its reason

A folder is filled in `staging`, sealed with checksums, and renamed into place, so it is either whole
or absent. Two writers of one key write the same thing; the first rename wins. A folder is checked
against its sums whenever it is reused; a damaged one is moved away, reported, and made again. One that
cannot be read is not known to be damaged: that is an error, and it stays where it is.
"""

from __future__ import annotations

import errno
import hashlib
import json
import secrets
import shutil
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.errors import StoreError, UnreadableError, explained_reading, explained_writing
from harness.records import PipelineRecord, RenderRecord
from harness.store import integrity
from harness.store.lease import Leases

KINDS = ("renders", "inputs", "probes")
_IN_THE_WAY = (errno.ENOTEMPTY, errno.EEXIST)


def content_key(record: Mapping[str, Any]) -> str:
    """SHA-256 of a mapping of plain values, independent of the order of its keys."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _warn(message: str) -> None:
    print(f"parity: warning: {message}", file=sys.stderr)


class Store:
    """One folder of renders. Raises `StoreError` when it cannot be read or written."""

    def __init__(self, root: Path, warn: Callable[[str], None] = _warn) -> None:
        """`warn` is told of damage that was found and moved away."""
        self.root = root.resolve()
        self.leases = Leases(self.root / "leases")
        self._warn = warn
        self._checked: dict[Path, integrity.Stamp] = {}

    def folder(self, kind: str, key: str) -> Path:
        """Where `key` of `kind` lies, or would lie."""
        return self.root / kind / key[:2] / key

    def render_folder(self, key: str) -> Path:
        """Where the render `key` lies, or would lie."""
        return self.folder("renders", key)

    def inputs_path(self, key: str) -> Path:
        """The safetensors file of exported inputs `key`; its `.json` sibling holds the rest."""
        return self.folder("inputs", key) / "inputs.safetensors"

    def find(self, key: str) -> RenderRecord | None:
        """The finished render `key`, or None. A failed attempt counts as absent.

        Its files are checked against their sums; if one is damaged the render is moved to
        `quarantine`, reported, and absent.
        """
        record = self.attempted(key)
        if record is None or record.status != "ok":
            return None
        return record if self.whole("renders", key) else None

    def attempted(self, key: str) -> RenderRecord | None:
        """The render `key` as it ended last, finished or not; its files are not checked."""
        path = self.render_folder(key) / "record.json"
        try:
            return self._read(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UnreadableError:
            raise
        except StoreError:
            if self.whole("renders", key):
                raise  # as it was written, so by another version
            return None

    def has_inputs(self, key: str) -> bool:
        """Whether the exported inputs `key` are here, every byte as it was written."""
        return self.whole("inputs", key)

    def whole(self, kind: str, key: str) -> bool:
        """Whether `kind/key` is here and undamaged; if damaged, it is moved away and reported.

        Raises `UnreadableError` where that cannot be told; it is then left alone.
        """
        folder = self.folder(kind, key)
        try:
            with explained_reading(folder):
                seen = integrity.stamp(folder)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if self._checked.get(folder) == seen:
            return True
        reason = integrity.damage(folder)
        if reason is not None:
            self._quarantine(folder, kind, key, reason)
            return False
        self._checked[folder] = seen
        return True

    def check_pipeline(self, key: str) -> bool:
        """Whether the identity `key` is undamaged; if not, it is moved away and reported."""
        reason = self.pipeline_damage(key)
        if reason is not None:
            path = self.folder("pipelines", key).with_suffix(".json")
            self._quarantine(path, "pipelines", key, reason)
        return reason is None

    def _quarantine(self, what: Path, kind: str, key: str, reason: str) -> None:
        place = self.root / "quarantine" / f"{kind}-{key}-{secrets.token_hex(2)}"
        try:
            place.parent.mkdir(exist_ok=True)
            what.rename(place)
            with suppress(OSError):  # a full disk: the reason is said below, too
                place.with_suffix(".txt").write_text(f"{reason}\n")
        except FileNotFoundError:
            return  # another process found it first
        except OSError as error:
            self._warn(
                f"damage in {what}: {reason}. It could not be moved away ({error.strerror}) and is"
                " not used"
            )
            return
        self._warn(f"damage in {what}: {reason}. It was moved to {place}; a run makes it again")

    def _read(self, path: Path) -> RenderRecord:
        try:
            with explained_reading(path):
                return RenderRecord.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise StoreError(
                f"{path} is not a render record of this version ({type(error).__name__}); delete"
                f" the folder {path.parent} and render again"
            ) from error

    def renders(self) -> Iterator[RenderRecord]:
        """Every render in the store, failed attempts included, in order of key."""
        for _, folder in self.folders("renders"):
            with suppress(FileNotFoundError):  # moved away just now, or left without its record
                yield self._read(folder / "record.json")

    def folders(
        self, kind: str, unreadable: Callable[[UnreadableError], None] | None = None
    ) -> Iterator[tuple[str, Path]]:
        """Key and folder of everything of one kind, in order of key.

        `unreadable` is told of a folder that cannot be listed; without it that is raised.
        """
        for prefix in self._listed(self.root / kind, unreadable):
            for path in self._listed(prefix, unreadable):
                yield path.name, path

    @staticmethod
    def _listed(folder: Path, unreadable: Callable[[UnreadableError], None] | None) -> list[Path]:
        try:
            with explained_reading(folder):
                return sorted(folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except UnreadableError as error:
            if unreadable is None:
                raise
            unreadable(error)
            return []

    @contextmanager
    def staged(
        self, kind: str, key: str, final: Callable[[], str] | None = None
    ) -> Generator[Path]:
        """Fill the yielded folder; it becomes `kind/key` on success and vanishes on failure.

        `final` says the key where that is known only when the folder is filled; `key` is then the one
        on which a lease is held.

        An earlier failed attempt under the same key is replaced; a whole result stays.
        """
        staging = self.root / "staging"
        with explained_writing(self.root):
            staging.mkdir(parents=True, exist_ok=True)
            folder = staging / f"{key}-{secrets.token_hex(4)}"
            folder.mkdir()
        try:
            with explained_writing(folder):
                yield folder
                integrity.seal(folder)
                self._commit(folder, kind, key if final is None else final())
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _commit(self, folder: Path, kind: str, key: str) -> None:
        target = self.folder(kind, key)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.rename(target)
        except OSError as error:
            if error.errno not in _IN_THE_WAY:
                raise
            if self.find(key) if kind == "renders" else self.whole(kind, key):
                return
            replaced = folder.with_name(f"{folder.name}-replaced")
            if target.exists():  # a failed attempt, unless what is damaged could not be moved away
                if kind != "renders" or self.attempted(key) is None:
                    raise StoreError(f"{target} is damaged and in the way; remove it") from error
                target.rename(replaced)
            folder.rename(target)
            shutil.rmtree(replaced, ignore_errors=True)

    def add_pipeline(self, record: PipelineRecord) -> str:
        """Keep an opened pipeline's identity; return its key."""
        key = content_key(record.model_dump(mode="json"))
        path = self.folder("pipelines", key).with_suffix(".json")
        if self.pipeline_damage(key) is not None:
            with explained_writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_suffix(f".{secrets.token_hex(4)}.partial")
                try:
                    partial.write_text(record.model_dump_json(indent=1))
                    partial.replace(path)
                finally:
                    partial.unlink(missing_ok=True)
        return key

    def pipeline(self, key: str) -> PipelineRecord:
        """Read an identity back."""
        path = self.folder("pipelines", key).with_suffix(".json")
        try:
            with explained_reading(path):
                return PipelineRecord.model_validate_json(path.read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError) as error:
            raise StoreError(f"{path} is missing or damaged; render the pair again") from error

    def pipeline_damage(self, key: str) -> str | None:
        """What is wrong with a stored identity, whose key is the hash of what it says."""
        try:
            record = self.pipeline(key)
            text = self.folder("pipelines", key).with_suffix(".json").read_text()
        except UnreadableError:
            raise
        except StoreError:
            return "missing, or not a record of this version"
        genuine = content_key(record.model_dump(mode="json")) == key
        same_text = record.model_dump_json(indent=1) == text
        return None if genuine and same_text else "not the text that was stored"
