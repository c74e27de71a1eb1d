"""Verdicts over the runs beside this one: what is new, what is fixed, what is still failing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from harness.errors import StoreError
from harness.records import PairResult, RunResult
from harness.report.limits import Proposal, propose
from harness.report.matrix import Row
from harness.report.reading import read_result
from harness.report.verdicts import VERDICTS, VerdictWord, severity

NEWEST = 40
"""Runs that are looked at; older ones are counted and left out."""

Change = Literal["new", "still failing", "fixed", "no verdict", "healthy", "not in this run"]
_ORDER: tuple[Change, ...] = (
    "new", "still failing", "no verdict", "fixed", "healthy", "not in this run",
)  # fmt: skip


@dataclass(frozen=True)
class TrendRun:
    """One run in the trend. `folder` is its name beside this run's."""

    folder: str
    result: RunResult
    has_page: bool

    @property
    def commit(self) -> str:
        """The first characters of the commit, if the run recorded one."""
        return (self.result.commit or "")[:10]


@dataclass(frozen=True)
class TrendCell:
    """The verdict on a pair in one run; `page` is that run's page of the pair, where there is one."""

    word: VerdictWord
    page: str | None


@dataclass(frozen=True)
class TrendRow:
    """One pair over all runs, oldest first; a cell is None where a run has no such pair."""

    row: Row
    change: Change
    since: str
    cells: list[TrendCell | None]
    proposals: list[Proposal]


@dataclass(frozen=True)
class Trend:
    """The newest runs up to this one. `unreadable` and `older` were left out."""

    runs: list[TrendRun]
    rows: list[TrendRow]
    unreadable: int
    older: int

    def count(self, change: Change) -> int:
        """How many pairs are in that state."""
        return sum(row.change == change for row in self.rows)


def read_trend(folder: Path, result: RunResult) -> Trend:
    """Read the runs that lie beside `folder` and are not newer than it."""
    names = sorted(path.parent.name for path in folder.resolve().parent.glob("*/verdict.json"))
    earlier = [name for name in names if name != folder.resolve().name]
    read = [_read(folder.resolve().parent / name) for name in earlier]
    runs = [run for run in read if run is not None and run.result.created <= result.created]
    runs.sort(key=lambda run: (run.result.created, run.folder))
    kept = [*runs[-(NEWEST - 1) :], TrendRun(folder.resolve().name, result, True)]
    return Trend(
        runs=kept,
        rows=_rows(kept),
        unreadable=read.count(None),
        older=len(runs) - len(kept) + 1,
    )


def _read(folder: Path) -> TrendRun | None:
    try:
        result = read_result(folder)
    except StoreError:
        return None
    return TrendRun(folder.name, result, (folder / "index.html").is_file())


def _rows(runs: Sequence[TrendRun]) -> list[TrendRow]:
    history: dict[str, list[PairResult | None]] = {}
    newest: dict[str, Row] = {}
    for index, run in enumerate(runs):
        for pair in run.result.pairs:
            row = Row(pair, None)
            cells = history.setdefault(row.anchor, [None] * len(runs))
            cells[index] = pair
            newest[row.anchor] = row
    rows = [_row(newest[anchor], cells, runs) for anchor, cells in history.items()]
    return sorted(rows, key=lambda r: (_ORDER.index(r.change), severity(r.row.pair.verdict)))


def _row(row: Row, pairs: list[PairResult | None], runs: Sequence[TrendRun]) -> TrendRow:
    known = [(run, pair) for run, pair in zip(runs, pairs, strict=True) if pair is not None]
    change, since = _change(known)
    if pairs[-1] is None:
        change, since = "not in this run", known[-1][0].folder
    cells = [
        None if pair is None else TrendCell(VERDICTS[pair.verdict], _page(run, row.anchor))
        for run, pair in zip(runs, pairs, strict=True)
    ]
    return TrendRow(row, change, since, cells, propose([pair for _, pair in known]))


def _change(known: Sequence[tuple[TrendRun, PairResult]]) -> tuple[Change, str]:
    """The state of a pair and the run since which it has it.

    A run without a verdict (unsupported, inconclusive, ...) neither fixes nor breaks anything: a
    failure is still failing across it.
    """
    tones = [VERDICTS[pair.verdict].tone for _, pair in known]
    last_run = known[-1][0].folder
    if tones[-1] == "open":
        return "no verdict", last_run
    decided = [(run, tone) for (run, _), tone in zip(known, tones, strict=True) if tone != "open"]
    start = len(decided) - 1
    while start and decided[start - 1][1] == tones[-1]:
        start -= 1
    since = decided[start][0].folder
    newly = start == len(decided) - 1
    if tones[-1] == "bad":
        return ("new" if newly else "still failing"), since
    return ("fixed" if newly and start else "healthy"), since


def _page(run: TrendRun, anchor: str) -> str | None:
    return f"../{quote(run.folder)}/pairs/{anchor}.html" if run.has_page else None
