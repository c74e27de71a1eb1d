"""Progress of a run: live bars for a person, one plain line per finished render for a log."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from harness.report.text import visible


class SweepBoard(Protocol):
    """What a sweep's workers know of each other; see `harness.render.board`."""

    @property
    def worker(self) -> str: ...
    def status(self) -> str: ...


class Progress:
    """Tells how far a run is. Use as a context manager; quiet bars when not on a terminal."""

    def __init__(self, console: Console | None = None, board: SweepBoard | None = None) -> None:
        """Write to `console`, by default to stderr, so that results can be piped.

        `board` knows the other workers of a sweep; with it every line says how far all of them are.
        """
        self._board = board
        self._console = console or Console(stderr=True)
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bars.add_task("renders", total=None)
        self._total = self._finished = 0

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def start(self, total: int) -> None:
        """Expect `total` renders."""
        self._total, self._finished = total, 0
        self._bars.reset(self._task, total=total)

    def render_started(self, label: str) -> None:
        """Show what is being rendered."""
        self._bars.update(self._task, description=visible(label))

    def render_finished(self, label: str, status: str, seconds: float) -> None:
        """Write the line that stays."""
        self._finished += 1
        self._total = max(self._total, self._finished)  # renders for other jobs of a sweep
        self._bars.advance(self._task)
        count = f"{self._finished:>{len(str(self._total))}}/{self._total}"
        line = f"{count}  {seconds:7.1f} s  {visible(label)}: {visible(status)}"
        if self._board is not None:
            line = f"{self._board.worker}  {line}  ({self._board.status()})"
        style = "" if status.startswith("ok") else "yellow"
        self._console.print(Text(line, style), soft_wrap=True)
