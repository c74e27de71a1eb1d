"""`parity judge`: render what is missing, and print the verdicts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.output import console
from harness.commands.request import Request, board
from harness.commands.settings import add_settings, carry_out
from harness.errors import ParityError

if TYPE_CHECKING:
    from harness.config.config import RunConfig
    from harness.records import RunResult
    from harness.verdict.session import Until

_EXAMPLES = """\
  parity judge experiment=demo
  parity judge 'candidate=[sat]' match.schedule=own
"""


def describe(parser: argparse.ArgumentParser) -> None:
    """Arguments and help."""
    add_settings(
        parser,
        "Like `parity run`, without the report: judge every pair and print the verdicts with their"
        " reasons. Renders come from the store where they exist.",
        _EXAMPLES,
    )


def run(args: argparse.Namespace) -> int:
    """Carry out the verb."""
    return carry_out(args, "judge", job)


def job(config: RunConfig, request: Request) -> int:
    """One configuration, up to its verdicts."""
    return judged(config, request)[1].exit_code


def judged(config: RunConfig, request: Request, until: Until = "judge") -> tuple[Path, RunResult]:
    """Render and judge with progress on stderr, print the matrix, return run folder and result."""

    from harness import report
    from harness.verdict import session

    with report.Progress(board=board(request)) as progress:
        folder, result = session.run(
            config, request.plugins, request.command, progress, until, sweep=request.sweep
        )
    if result is None:
        raise ParityError(f"the run in {folder} ended without verdicts")
    report.print_matrix(result, console(), config.store)
    return folder, result
