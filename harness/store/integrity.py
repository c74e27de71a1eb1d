"""Checksums of a folder's files, in the form that `sha256sum --check` reads.

`SHA256SUMS` lists every other file of the folder, so that damage to any byte is seen: a changed file
no longer has its sum, a changed list no longer has the text that the files give.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from harness.errors import explained_reading

SUMS = "SHA256SUMS"

_FOLDER = "-" * 64
"""In place of the sum of a folder, which nobody stored."""

Stamp = tuple[tuple[str, int, int, int], ...]
"""Name, size, modification time and inode of every file: what changes when a file is written."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as stream:
        total = hashlib.sha256()
        while block := stream.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def seal(folder: Path) -> None:
    """Write the sums of all files in `folder`, which has no subfolders."""
    (folder / SUMS).write_text(_listing(folder, _names(folder)))


def damage(folder: Path) -> str | None:
    """What is wrong with a sealed folder, in words; None when every byte is as it was sealed.

    Raises `UnreadableError` where a file cannot be read, which is no damage.
    """
    try:
        with explained_reading(folder):
            recorded = (folder / SUMS).read_bytes()
            names = _names(folder)
            present = _listing(folder, names)
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    if recorded == present.encode():
        return None
    lines = recorded.decode(errors="replace").splitlines()
    expected = {line[66:]: line[:64] for line in lines}
    found = {line[66:]: line[:64] for line in present.splitlines()}
    if lost := sorted(expected.keys() - found.keys()):
        return f"{_listed(lost)}: missing"
    if added := sorted(found.keys() - expected.keys()):
        return f"{_listed(added)}: not among the files that were stored"
    changed = sorted(name for name in found if found[name] != expected[name])
    return f"{_listed(changed or [SUMS])}: not the bytes that were stored"


def stamp(folder: Path) -> Stamp:
    """The folder's files as the file system describes them, without reading any."""
    with os.scandir(folder) as entries:
        return tuple(
            sorted(
                (entry.name, status.st_size, status.st_mtime_ns, status.st_ino)
                for entry in entries
                for status in [entry.stat()]
            )
        )


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != SUMS)


def _listing(folder: Path, names: Sequence[str]) -> str:
    return "".join(f"{_sum(folder / name)}  {name}\n" for name in names)


def _sum(path: Path) -> str:
    return _FOLDER if path.is_dir() else file_sha256(path)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)
