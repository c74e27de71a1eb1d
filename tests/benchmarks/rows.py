"""What a benchmark says: rows of a table as JSON, and how they are timed."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

ROWS_FILE = "PARITY_BENCH_ROWS"
"""Environment variable: where `bench.py` wants the rows."""


@dataclass(frozen=True)
class Row:
    """One line of RESULTS.md. `met` is empty where nothing was promised; see `met` and `met_twice`."""

    area: str
    what: str
    measured: str
    target: str = ""
    met: str = ""


def met(kept: bool) -> str:
    """Whether a promise was kept."""
    return "yes" if kept else "**no**"


def met_twice(on_the_clock: bool, in_computing: bool) -> str:
    """The same where a busy machine makes the clock say less than seconds of computing do."""
    if on_the_clock or not in_computing:
        return met(on_the_clock)
    return "in computing, not on the clock"


def say(rows: list[Row]) -> None:
    """Hand the rows to `bench.py` in the file that it names, or to the reader.

    Not on standard output to `bench.py`: libraries of the stacks print there as well.
    """
    text = json.dumps([asdict(row) for row in rows], indent=1)
    if ROWS_FILE in os.environ:
        Path(os.environ[ROWS_FILE]).write_text(text)
    else:
        print(text)


@dataclass(frozen=True)
class Seconds:
    """One run of one thing: on the clock, and of computing in this process and its children."""

    wall: float
    cpu: float


def _cpu() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def once(run: Callable[[], object]) -> Seconds:
    """Time one run."""
    wall, cpu = time.perf_counter(), _cpu()
    run()
    return Seconds(time.perf_counter() - wall, _cpu() - cpu)


def in_turns(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[Seconds]]:
    """Run all of them one after the other, `rounds` times: what disturbs one disturbs all."""
    found: dict[str, list[Seconds]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            found[name].append(once(run))
            print(f"round {number + 1}: {name}: {found[name][-1]}", file=sys.stderr, flush=True)
    return found


def ratio(found: Mapping[str, list[Seconds]], a: str, b: str, of: str = "wall") -> float:
    """The median over rounds of a's time in units of b's."""
    pairs = zip(found[a], found[b], strict=True)
    return statistics.median(getattr(x, of) / getattr(y, of) for x, y in pairs)


def typical(found: list[Seconds], of: str = "wall") -> float:
    """The median over rounds, in seconds."""
    return statistics.median(getattr(x, of) for x in found)
