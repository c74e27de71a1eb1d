"""How far a sweep is: every worker, on whatever host, writes down what it finished."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path


@dataclass(frozen=True)
class Board:
    """A folder with one file for each worker, one line for each render that it finished or found.

    `total` is the number of different renders of the sweep, which began at `since` (ISO 8601).
    """

    folder: Path
    total: int
    since: str

    @property
    def worker(self) -> str:
        """The name of this process among the workers."""
        return f"{socket.gethostname()}-{os.getpid()}"

    def finished(self, key: str, fresh: bool) -> None:
        """Write down that render `key` is there, and whether it was made just now."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / self.worker).open("a") as stream:
            stream.write(f"{key} {'made' if fresh else 'found'}\n")

    def status(self) -> str:
        """Renders done of all, the number of workers so far, and the time left at this pace."""
        lines = list(self._lines())
        done = len({key for _, key, _ in lines})
        made = sum(how == "made" for _, _, how in lines)
        workers = len({worker for worker, _, _ in lines})
        text = f"sweep {done}/{self.total}, {workers} worker{'s' * (workers != 1)}"
        if made == 0 or done >= self.total:
            return text
        elapsed = datetime.now(timezone.utc) - datetime.fromisoformat(self.since)
        left = (self.total - done) * elapsed / made
        return f"{text}, about {_rounded(left)} left"

    def _lines(self) -> Iterator[tuple[str, str, str]]:
        for path in self.folder.glob("*"):
            for line in path.read_text().splitlines():
                key, _, how = line.partition(" ")
                yield path.name, key, how


def _rounded(time: timedelta) -> str:
    seconds = time.total_seconds()
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
