"""A listing of all renders that is fast for ten thousand of them.

`<store>/index.json` keeps one short row for each record, with what the file system says of the record's
file. Whoever lists reads again only what is new or changed. It can be deleted at any time; nothing else
than listings depends on it.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import StoreError, UnreadableError, explained_reading
from harness.store.store import Store

_FORMAT = 1


class Row(NamedTuple):
    """What a list shows of a render; the rest is in its `record.json`."""

    key: str
    case: str
    variant: str
    seed: int
    repeat: int
    member: str
    shares: int
    status: str
    created: str
    message: str | None


def listing(store: Store) -> list[Row]:
    """A row for every render, failed attempts included, newest first.

    Raises: StoreError, when a record cannot be read.
    """
    path = store.root / "index.json"
    known = _read(path)
    found: dict[str, list[Any]] = {}
    for key, record, stamp in _records(store.root / "renders"):
        before = known.get(key)
        same = before is not None and before[0] == stamp
        found[key] = before if same and before is not None else [stamp, *_row(record)]
    if found != known:
        _write(path, found)
    rows = [Row(key, *values[1:]) for key, values in found.items()]
    return sorted(rows, key=lambda row: row.created, reverse=True)


def _records(renders: Path) -> Iterator[tuple[str, Path, list[int]]]:
    for prefix in sorted(renders.iterdir()) if renders.is_dir() else []:
        with explained_reading(prefix), suppress(FileNotFoundError, NotADirectoryError):
            for folder in os.scandir(prefix):
                record = Path(folder.path) / "record.json"
                with suppress(FileNotFoundError, NotADirectoryError):  # moved away just now
                    status = record.stat()
                    yield folder.name, record, [status.st_mtime_ns, status.st_size, status.st_ino]


def _row(path: Path) -> list[Any]:
    try:
        record = json.loads(path.read_bytes())
        return [
            record["case"]["name"],
            record["variant"]["name"],
            record["seed"],
            record["repeat"],
            record.get("member", "plain"),
            len(record["share"]),
            record["status"],
            record["created"],
            record["message"],
        ]
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, LookupError, TypeError) as error:
        raise StoreError(
            f"{path} is damaged ({type(error).__name__}); run `parity verify` to have it moved away"
        ) from error


def _read(path: Path) -> dict[str, list[Any]]:
    with suppress(OSError, ValueError, LookupError, TypeError):
        index = json.loads(path.read_bytes())
        if index["format"] == _FORMAT:
            return dict(index["rows"])
    return {}


def _write(path: Path, rows: dict[str, list[Any]]) -> None:
    partial = path.with_suffix(f".{secrets.token_hex(4)}")
    with suppress(OSError):  # a store that cannot be written can still be listed
        partial.write_text(json.dumps({"format": _FORMAT, "rows": rows}, separators=(",", ":")))
        partial.replace(path)
