"""`parity score`: render what is missing, and print the metrics."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.commands.output import console
from harness.commands.request import Request, board
from harness.commands.settings import add_settings, carry_out
from harness.errors import EXIT_EQUIVALENT, EXIT_UNDECIDED
from harness.metrics import Unscored

if TYPE_CHECKING:
    from rich.table import Table

    from harness.config.config import RunConfig
    from harness.records import PairResult

_EXAMPLES = """\
  parity score 'candidate=[sat]' 'metrics=[psnr,ssim]' 'seeds=[0,1]'
"""


def describe(parser: argparse.ArgumentParser) -> None:
    """Arguments and help."""
    add_settings(
        parser,
        "Score every pair and print each metric for each seed beside its floor, the reference"
        " rendered again. Exit code 0: every metric scored; 3: something could not be scored, or"
        " nothing was compared.",
        _EXAMPLES,
    )


def run(args: argparse.Namespace) -> int:
    """Carry out the verb."""
    return carry_out(args, "score", job)


def job(config: RunConfig, request: Request) -> int:
    """One configuration, up to its scores."""

    from harness import report
    from harness.verdict import session

    with report.Progress(board=board(request)) as progress:
        _, result = session.run(
            config, request.plugins, request.command, progress, sweep=request.sweep
        )
    assert result is not None  # only a session that ends with `render` has none
    out = console()
    out.print(_table(result.pairs, config.seeds))
    problems = [line for pair in result.pairs for line in _unscored(pair)]
    for line in problems:
        out.print(line, style="yellow", markup=False, soft_wrap=True)
    return EXIT_UNDECIDED if problems else EXIT_EQUIVALENT


def _table(pairs: Sequence[PairResult], seeds: Sequence[int]) -> Table:
    from rich.table import Table

    from harness.report.scores import read_metrics
    from harness.report.text import ABSENT, score

    table = Table("case", "candidate", "metric", "unit", box=None)
    for title in (*(f"seed {seed}" for seed in seeds), "floor"):
        table.add_column(title, justify="right")
    for pair in pairs:
        for name, reading in read_metrics(pair).items():
            floor, some = reading.floor_worst, reading.worst
            values = [
                ABSENT if isinstance(result, Unscored) else score(result.value, result.unit)
                for result in reading.by_seed.values()
            ]
            unit = ABSENT if some is None else some.unit
            floor_text = ABSENT if floor is None else score(floor.value, floor.unit)
            table.add_row(pair.case, pair.candidate, name, unit, *values, floor_text)
    return table


def _unscored(pair: PairResult) -> list[str]:
    from harness.report.scores import read_metrics

    where = f"{pair.case}, {pair.candidate}"
    if not pair.scores:
        return [f"{where}: not scored ({pair.verdict}): {' '.join(pair.reasons)}"]
    return [
        f"{where}, seed {seed}: {name} was not scored: {result.reason}. {result.remedy}"
        for name, reading in read_metrics(pair).items()
        for seed, result in reading.by_seed.items()
        if result.kind == "unscored"
    ]
