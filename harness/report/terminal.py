"""The verdict matrix in the terminal, with each pair's reasons and findings below it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.records import RunResult
from harness.report.matrix import Cell, Matrix, Row, build_matrix
from harness.report.reading import Renders
from harness.report.text import (
    coverage_sentence,
    finding_sentence,
    visible,
    warning_sentence,
)
from harness.report.verdicts import VERDICTS, Tone

ROOMY = 100
"""Terminal columns from which every column of the matrix is shown."""

_STYLES: dict[Tone, str] = {"bad": "bold red", "open": "bold yellow", "good": "green"}
_COLUMN_TITLES = {
    "psnr": "PSNR\ndB",
    "ssim": "SSIM\n",
    "lpips": "LPIPS\n",
    "lpips_alex_untrained": "LPIPS\nuntrained",
}


def print_matrix(result: RunResult, console: Console, store_root: Path | None = None) -> None:
    """Print the matrix, worst pair first, then every pair's reasons and findings, then a legend.

    With `store_root` the columns of time and memory are filled; without it they are left out.

    Raises: StoreError, when a metric's result or a render's record cannot be read.
    """
    renders = Renders(store_root) if store_root else None
    costs = [renders.costs(pair) for pair in result.pairs] if renders else None
    matrix = build_matrix(result, costs)
    if matrix.reference:
        console.print(Text(f"Reference: {visible(matrix.reference)}\n", "bold"))
    if matrix.rows:
        console.print(_table(matrix, costs is not None, console.width >= ROOMY))
    for row in matrix.rows:
        _print_pair(row, console)
    for hazard in result.hazards:
        console.print(Padding(Text(warning_sentence(hazard), "yellow"), (1, 0, 0, 0)))
    for sentence in matrix.unscored:
        console.print(Padding(Text(visible(sentence), "yellow"), (1, 0, 0, 0)))
    _print_legend(matrix, console)
    console.print(Padding(Text(matrix.headline, "bold"), (1, 0, 0, 0)))


def _table(matrix: Matrix, with_costs: bool, roomy: bool) -> Table:
    """Names are never cut into pieces; a narrow terminal has fewer columns instead.

    Where there is no room, costs are left to the page, and a metric that no pair could score to the
    sentence about it below.
    """
    with_costs = with_costs and roomy
    metrics = [m for m in matrix.metrics if roomy or any(r.scored(m) for r in matrix.rows)]
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold dim")
    table.add_column("case\n  candidate", no_wrap=True)
    table.add_column("verdict\n", no_wrap=True)
    numbers = ["latents\nrel. L2", *(_COLUMN_TITLES[name] for name in metrics)]
    numbers += ["first\nstep", "find-\nings"]
    for title in [*numbers, *(["time\nx ref.", "peak\nx ref."] if with_costs else [])]:
        table.add_column(title, justify="right", no_wrap=True)
    for row in matrix.rows:
        pair, word = row.pair, row.verdict
        name = Text(f"{visible(pair.case)}\n", "bold")
        against = "" if matrix.reference else f" vs {visible(pair.reference)}"
        name.append(f"  {visible(pair.candidate)}{against}", "not bold")
        verdict = Text(f"{word.symbol} {word.name}", _STYLES[word.tone])
        verdict.append("\n    rerun floor:" if pair.floor else "", "not bold dim default")
        cells = [row.latents, *(row.metric(metric) for metric in metrics)]
        plain = [row.first_step, str(len(pair.findings))]
        plain += [row.time, row.peak] if with_costs else []
        table.add_row(name, verdict, *(_numbers(cell, row) for cell in cells), *plain)
    return table


def _numbers(cell: Cell, row: Row) -> Text:
    text = Text(cell.value, justify="right")
    if row.pair.floor:
        text.append(f"\n{cell.floor}", "dim")
    return text


def _print_pair(row: Row, console: Console) -> None:
    pair, word = row.pair, row.verdict
    head = Text(f"\n{word.symbol} {word.name}  ", _STYLES[word.tone])
    head.append(visible(row.name), "bold default")
    console.print(head)
    for reason in pair.reasons or [word.meaning]:
        console.print(Padding(Text(visible(reason)), (0, 0, 0, 4)))
    if compared := coverage_sentence(pair.coverage):
        console.print(Padding(Text(compared, "dim"), (0, 0, 0, 4)))
    for finding in pair.findings:
        console.print(Padding(Text(f"- {finding_sentence(finding)}"), (0, 0, 0, 4)))


def _print_legend(matrix: Matrix, console: Console) -> None:
    console.print(Text("\nVerdicts in this run", "bold dim"))
    present = {row.pair.verdict for row in matrix.rows}
    legend = Table.grid(padding=(0, 1, 0, 0))
    for word in VERDICTS.values():
        if word.name in present:
            legend.add_row(
                Text(f"{word.symbol} {word.name}", _STYLES[word.tone]), Text(word.meaning)
            )
    console.print(Padding(legend, (0, 0, 0, 2)))
    notes = (
        "Numbers are those of the worst seed. The rerun floor is the reference against itself,"
        " rendered again in a fresh process. Steps count from 0."
    )
    for sentence in (notes, *matrix.weights):
        console.print(Padding(Text(visible(sentence), "dim"), (0, 0, 0, 2)))
