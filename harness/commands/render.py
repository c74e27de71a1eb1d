"""`parity render`: render only, into the run store."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from harness.commands.request import Request, board
from harness.commands.settings import add_settings, carry_out
from harness.errors import EXIT_EQUIVALENT, EXIT_UNDECIDED, EXIT_USAGE

if TYPE_CHECKING:
    from harness.config.config import RunConfig
    from harness.report import Progress

_EXAMPLES = """\
  parity render 'case=[micro_2b,micro_5b]' 'candidate=[sat]' 'seeds=[0,1]'
  parity render -m case=micro_2b,micro_5b
"""


def describe(parser: argparse.ArgumentParser) -> None:
    """Arguments and help."""
    add_settings(
        parser,
        "Render every case with the reference, its rerun and each candidate into the run store,"
        " without comparing anything. Exit code 0: all rendered, or cannot exist here; 2: some"
        " failed; 3: nothing was rendered.",
        _EXAMPLES,
    )


def run(args: argparse.Namespace) -> int:
    """Carry out the verb."""
    return carry_out(args, "render", job)


class _Tally:
    """Passes progress on and counts how the renders ended."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.counts: dict[str, int] = {}
        self.start, self.render_started = progress.start, progress.render_started

    def render_finished(self, label: str, status: str, seconds: float) -> None:
        word = status.split(",")[0]
        self.counts[word] = self.counts.get(word, 0) + 1
        self._progress.render_finished(label, status, seconds)


def job(config: RunConfig, request: Request) -> int:
    """One configuration, up to its renders."""
    from harness import report
    from harness.verdict import session

    with report.Progress(board=board(request)) as progress:
        tally = _Tally(progress)
        session.run(
            config, request.plugins, request.command, tally, until="render", sweep=request.sweep
        )
    counts = ", ".join(f"{count} {status}" for status, count in sorted(tally.counts.items()))
    print(f"renders: {counts}; store: {config.store}")
    if {"error", "not_run"} & set(tally.counts):
        return EXIT_USAGE
    return EXIT_EQUIVALENT if tally.counts.get("ok") else EXIT_UNDECIDED
