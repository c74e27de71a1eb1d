"""Where a report's facts come from: the run's `verdict.json` and the renders in the store."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from harness.errors import StoreError
from harness.records import PairResult, PipelineRecord, RenderRecord, RunResult
from harness.report.costs import PairCosts, compare_costs
from harness.store.store import Store


class Renders:
    """The renders that a run names, as the store holds them."""

    def __init__(self, store_root: Path) -> None:
        self._store = Store(store_root)
        self._records: dict[str, RenderRecord | None] = {}

    def record(self, key: str) -> RenderRecord | None:
        """The render `key`, finished or failed; None where the store has none.

        Raises: StoreError, when its record is damaged or `key` is not one of the store's keys.
        """
        if key not in self._records:
            self._records[key] = self._read(key)
        return self._records[key]

    def _read(self, key: str) -> RenderRecord | None:
        path = self.folder(key) / "record.json"
        if not path.is_file():
            return None
        try:
            return RenderRecord.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise StoreError(
                f"{path} is not a render record of this version; delete {path.parent} and run the"
                " same command again"
            ) from error

    def folder(self, key: str) -> Path:
        """Where the files of render `key` lie."""
        return self._store.render_folder(self._checked(key))

    @staticmethod
    def _checked(key: str) -> str:
        """A key is a hash, so that it can name no place outside the store."""
        if len(key) != 64 or not set(key) <= set("0123456789abcdef"):
            raise StoreError(f"{key!r} is no key of the store; run the same command again")
        return key

    def of(self, pair: PairResult, role: str) -> dict[int, RenderRecord]:
        """The renders of one side of `pair` by seed, as far as the store has them.

        They carry the names that this run gave; another one may have stored them under its own.
        """
        # a worker that never came up leaves a render without a key
        keys = {seed: key for seed, key in pair.renders.get(role, {}).items() if key}
        found = {seed: self.record(key) for seed, key in keys.items()}
        side = pair.candidate if role == "candidate" else pair.reference
        return {
            seed: record.model_copy(
                update={
                    "case": record.case | {"name": pair.case},
                    "variant": record.variant | {"name": side},
                }
            )
            for seed, record in found.items()
            if record is not None
        }

    def pipelines(
        self, reference: RenderRecord, candidate: RenderRecord
    ) -> tuple[PipelineRecord, PipelineRecord] | None:
        """What the two opened pipelines say of themselves; None unless both were opened.

        Raises: StoreError, when an identity is missing or damaged.
        """
        if reference.pipeline_key is None or candidate.pipeline_key is None:
            return None
        keys = self._checked(reference.pipeline_key), self._checked(candidate.pipeline_key)
        return self._store.pipeline(keys[0]), self._store.pipeline(keys[1])

    def sides(self, pair: PairResult) -> tuple[list[RenderRecord], list[RenderRecord]]:
        """The renders of reference and candidate, as far as the store has them."""
        return (
            list(self.of(pair, "reference").values()),
            list(self.of(pair, "candidate").values()),
        )

    def costs(self, pair: PairResult) -> PairCosts:
        """Time and memory of both sides."""
        return compare_costs(*self.sides(pair))


def read_result(folder: Path) -> RunResult:
    """The result in a run folder. Raises: StoreError, when `verdict.json` is missing or damaged."""
    path = folder / "verdict.json"
    try:
        return RunResult.model_validate_json(path.read_bytes())
    except OSError as error:
        raise StoreError(
            f"{path} cannot be read ({error.strerror}); give a run folder, such as results/latest"
        ) from error
    except ValidationError as error:
        raise StoreError(
            f"{path} is not a run of this version: {error.error_count()} fields do not fit,"
            f" first {'.'.join(str(part) for part in error.errors()[0]['loc'])}; run the same"
            " command again"
        ) from error


@dataclass(frozen=True)
class RunFiles:
    """One run folder with its result, and the renders that it names."""

    folder: Path
    result: RunResult
    renders: Renders

    @staticmethod
    def open(folder: Path, store_root: Path) -> RunFiles:
        """Read `verdict.json`. Raises: StoreError, when it is missing or damaged."""
        return RunFiles(folder, read_result(folder), Renders(store_root))

    @cached_property
    def costs(self) -> list[PairCosts]:
        """`PairCosts` for every pair, in the order of the result."""
        return [self.renders.costs(pair) for pair in self.result.pairs]

    def write_text(self, name: str, text: str) -> Path:
        """Write a file of the report. Raises: StoreError, when the folder cannot be written."""
        path = self.folder / name
        try:
            path.write_text(text, encoding="utf-8", newline="\n")
        except OSError as error:
            raise StoreError(
                f"cannot write {path}: {error.strerror}; free space, or give a folder that can be"
                " written"
            ) from error
        return path
