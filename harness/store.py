"""The run store: renders, exported inputs and pipeline identities, addressed by content.

    <root>/renders/<kk>/<key>/   record.json  frames.mkv  preview.mp4  trace.safetensors
    <root>/inputs/<kk>/<key>/    inputs.safetensors  inputs.json
    <root>/pipelines/<kk>/<key>.json
    <root>/probes/<kk>/<key>/    answers.safetensors  answers.json
    <root>/staging/              unfinished work; nothing else ever looks there

A folder is filled in `staging` and then renamed into place, so it is either whole or absent. Two
writers of one key write the same thing; the first rename wins.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import tempfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.errors import StoreError
from harness.records import PipelineRecord, RenderRecord


def content_key(record: Mapping[str, Any]) -> str:
    """SHA-256 of a mapping of plain values, independent of the order of its keys."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def _explained(what: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StoreError(
                f"no space left on the disk that holds {what}; nothing was left half-written. Free"
                " space there, or point `store` at another folder, and run the same command again"
            ) from error
        raise StoreError(
            f"cannot write {what}: {error.strerror}; choose another `store`"
        ) from error


class Store:
    """One folder of renders. Raises `StoreError` when it cannot be read or written."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

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
        """The finished render `key`, or None. A failed attempt counts as absent."""
        path = self.render_folder(key) / "record.json"
        if not path.is_file():
            return None
        record = self._read(path)
        return record if record.status == "ok" else None

    def _read(self, path: Path) -> RenderRecord:
        try:
            return RenderRecord.model_validate_json(path.read_text())
        except (OSError, ValidationError) as error:
            raise StoreError(
                f"{path} is not a render record of this version ({type(error).__name__}); delete"
                f" the folder {path.parent} and render again"
            ) from error

    def renders(self) -> Iterator[RenderRecord]:
        """Every render in the store, failed attempts included, in order of key."""
        for path in sorted(self.root.glob("renders/*/*/record.json")):
            yield self._read(path)

    @contextmanager
    def staged(self, kind: str, key: str) -> Generator[Path]:
        """Fill the yielded folder; it becomes `kind/key` on success and vanishes on failure.

        An earlier failed attempt under the same key is replaced.
        """
        staging, target = self.root / "staging", self.folder(kind, key)
        with _explained(self.root):
            staging.mkdir(parents=True, exist_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f"{key[:12]}-", dir=staging))
        try:
            with _explained(folder):
                yield folder
                if target.exists():
                    shutil.rmtree(target)
                folder.rename(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def add_pipeline(self, record: PipelineRecord) -> str:
        """Keep an opened pipeline's identity; return its key."""
        key = content_key(record.model_dump(mode="json"))
        path = self.folder("pipelines", key).with_suffix(".json")
        if not path.exists():
            with _explained(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_suffix(".partial")
                partial.write_text(record.model_dump_json(indent=1))
                partial.replace(path)
        return key

    def pipeline(self, key: str) -> PipelineRecord:
        """Read an identity back."""
        path = self.folder("pipelines", key).with_suffix(".json")
        try:
            return PipelineRecord.model_validate_json(path.read_text())
        except (OSError, ValidationError) as error:
            raise StoreError(f"{path} is missing or damaged; render the pair again") from error
