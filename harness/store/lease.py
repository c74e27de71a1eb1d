"""Leases: who is at work on what, among any number of processes and hosts on one shared folder.

    <root>/<key>/<n>    the n-th lease on `key`: its owner as JSON; its modification time is the beat

A lease is taken by linking a finished file to the next free number, which only one can do, also over
NFS. Whoever then sees another live lease beside its own gives its own up. A lease is dead when its
process is gone (seen on the same host at once) or when its beat is older than `expiry_s`; both times
come from the file system's own clock, so that hosts need not agree on the time. A lease that does not
say who owns it, or whose beat lies in the future, is judged by its beat alone: nobody keeps it alive.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import cache
from pathlib import Path

from harness.errors import explained_reading, explained_writing

BEAT_S = 10.0
EXPIRY_S = 120.0
"""Longer than the minute for which NFS clients may show an old modification time."""


class Leases:
    """The leases of one store. Raises `StoreError` when the folder cannot be written."""

    def __init__(self, root: Path, beat_s: float = BEAT_S, expiry_s: float = EXPIRY_S) -> None:
        self.root, self._beat_s, self._expiry_s = root, beat_s, expiry_s

    @contextmanager
    def attempt(self, key: str) -> Generator[bool]:
        """Hold `key` inside the block if the block's value is True; False: another one holds it."""
        with explained_writing(self.root):
            taken = self._take(key)
        if taken is None:
            yield False
            return
        lease, inode = taken
        ended = threading.Event()
        beat = threading.Thread(target=self._beat, args=(lease, ended), daemon=True)
        beat.start()
        try:
            yield True
        finally:
            ended.set()
            beat.join()
            with contextlib.suppress(FileNotFoundError):  # taken for dead, and removed
                if lease.stat().st_ino == inode:
                    _remove(lease)

    def live(self, key: str) -> bool:
        """Whether somebody is at work on `key`."""
        now = self._now()
        return any(self._is_live(path, now) for path in self._all(key))

    def keys(self, prefix: str) -> list[str]:
        """What there are leases on, live or dead, whose key begins with `prefix`."""
        with explained_reading(self.root):
            return sorted(path.name for path in self.root.glob(f"{prefix}*"))

    def sweep_up(self, *, dry_run: bool = False) -> int:
        """Remove what dead owners left behind; return how many leases that were."""
        if not self.root.is_dir():
            return 0
        now = self._now()
        with explained_reading(self.root):
            leases = [p for folder in self.root.iterdir() for p in self._all(folder.name)]
            dead = [path for path in leases if not self._is_live(path, now)]
            unused = [path for path in self.root.glob(".*") if not self._is_recent(path, now)]
        if not dry_run:
            for path in dead:
                with explained_writing(path):
                    _remove(path)
            for path in unused:
                with explained_writing(path):
                    path.unlink(missing_ok=True)
        return len(dead)

    def _take(self, key: str) -> tuple[Path, int] | None:
        """The lease and its inode, or None where another one is live."""
        with self._candidate() as candidate:
            now = candidate.stat().st_mtime
            earlier = self._all(key)
            if any(self._is_live(path, now) for path in earlier):
                return None
            number = max((int(path.name) for path in earlier), default=0) + 1
            lease = self.root / key / str(number)
            while True:
                with contextlib.suppress(FileExistsError):
                    lease.parent.mkdir()
                try:
                    os.link(candidate, lease)
                    break
                except FileExistsError:
                    return None
                except FileNotFoundError:
                    continue  # the folder was removed by one who just released it
            present = self._all(key)
            if lease not in present or any(self._is_live(p, now) for p in present if p != lease):
                _remove(lease)
                return None
            for path in earlier:  # all dead, and out of the way only now that this one is there
                path.unlink(missing_ok=True)
            return lease, candidate.stat().st_ino

    def _now(self) -> float:
        """The file system's time, from a file without content, which a full disk has room for."""
        with explained_writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            path = self.root / f".{secrets.token_hex(8)}"
            try:
                path.touch()
                return path.stat().st_mtime
            finally:
                path.unlink(missing_ok=True)

    @contextmanager
    def _candidate(self) -> Generator[Path]:
        """A complete lease of this process, under no key yet; its time is the file system's now."""
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / f".{secrets.token_hex(8)}"
        path.write_text(json.dumps(_myself()))
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _all(self, key: str) -> list[Path]:
        try:
            return [path for path in (self.root / key).iterdir() if path.name.isdecimal()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _is_live(self, path: Path, now: float) -> bool:
        try:
            with path.open() as stream:  # opening makes an NFS client ask for the present time
                beaten = os.fstat(stream.fileno()).st_mtime
                if abs(now - beaten) > self._expiry_s:
                    return False
                owner = json.load(stream)
            same_host = owner["host"] == _host()
            return not same_host or _start_of(owner["pid"]) == owner["pid_start"]
        except FileNotFoundError:
            return False
        except OSError:
            return self._is_recent(path, now)  # another user's: its beat can still be seen
        except (ValueError, LookupError, TypeError):
            return True  # half-written, by one who may have died since: its beat will tell

    def _is_recent(self, path: Path, now: float) -> bool:
        try:
            return abs(now - path.stat().st_mtime) <= self._expiry_s
        except FileNotFoundError:
            return False
        except OSError:
            return True  # not even its time can be seen: leave it alone

    def _beat(self, lease: Path, ended: threading.Event) -> None:
        while not ended.wait(self._beat_s):
            try:
                os.utime(lease)
            except FileNotFoundError:
                return  # taken for dead; the store keeps whichever result comes first
            except OSError:
                continue  # the file server is away; the next beat may reach it


def _remove(lease: Path) -> None:
    lease.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty, or gone already
        lease.parent.rmdir()


def _myself() -> dict[str, str | int | None]:
    return {
        "host": _host(),
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
        "pid_start": _start_of(os.getpid()),
        "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


@cache
def _host() -> str:
    """What tells apart places whose process numbers mean different processes: boot, container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()}/{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return secrets.token_hex(8)  # processes cannot be looked up here: beats alone decide


def _start_of(pid: int) -> str | None:
    """When process `pid` of this host began, in the kernel's ticks; None when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
