"""`parity selftest`: plant faults in a copy of the reference, and say which the gate catches."""

from __future__ import annotations

import argparse
import json
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.output import console
from harness.commands.request import Request, board
from harness.commands.settings import add_settings, carry_out
from harness.errors import EXIT_DIFFERENT, EXIT_EQUIVALENT, ConfigError, ParityError

if TYPE_CHECKING:
    from harness.config.config import RunConfig
    from harness.selftest.planted import Row

_EXAMPLES = """\
  parity selftest 'case=[micro_5b_quick]'
  parity selftest 'case=[cogvideox_5b]' reference.dtype=bfloat16 reference.device=cuda
  parity selftest reference=sat --only 'noise|guidance' --out caught.json
"""

_COLUMNS = ("fault", "what it stands for", "verdict", "named place", "result")


def describe(parser: argparse.ArgumentParser) -> None:
    """Arguments and help."""
    add_settings(
        parser,
        "Plant a dozen faults, one at a time, in a copy of the reference, judge each copy against the"
        " reference as `parity run` would, and say which were caught. Candidates of the settings have no"
        " part in it. Exit code 1 if a fault was missed, or the control, a copy without a fault, did not"
        " pass.",
        _EXAMPLES,
    )
    add = parser.add_argument
    add("--only", metavar="REGEX", help="faults whose name matches; the control is always there")
    add("--out", type=Path, metavar="FILE", help="write the table there, as JSON")


def run(args: argparse.Namespace) -> int:
    """Carry out the verb."""
    if args.multirun:
        raise ConfigError("selftest judges one configuration and takes no -m; give it each in turn")
    # The settings may choose a candidate of the reference's name, as `reference=sat` beside the default.
    if not any(setting.startswith("reference.name=") for setting in args.settings):
        args.settings.append("reference.name=reference")
    return carry_out(args, "selftest", partial(job, only=args.only, out=args.out))


def job(
    config: RunConfig, request: Request, only: str | None = None, out: Path | None = None
) -> int:
    """One configuration's faults, planted and judged. Raises `ParityError`."""
    from harness import report
    from harness.selftest.planted import PLUGIN, rows, summary, with_faults
    from harness.store.store import Store
    from harness.verdict import session

    planted = with_faults(config, _chosen(only))
    with report.Progress(board=board(request)) as progress:
        folder, result = session.run(
            planted, (*request.plugins, PLUGIN), request.command, progress, sweep=request.sweep
        )
    if result is None:
        raise ParityError(f"the run in {folder} ended without verdicts")
    found = rows(result.pairs, Store(config.store).find)
    _show(found)
    console().print(summary(found), markup=False, soft_wrap=True)
    if out is not None:
        out.write_text(json.dumps([row.model_dump() for row in found], indent=1) + "\n")
    wrong = any(row.status in ("missed", "not passed") for row in found)
    return EXIT_DIFFERENT if wrong or all(r.status != "caught" for r in found) else EXIT_EQUIVALENT


def _chosen(only: str | None) -> list[str]:
    from harness.selftest.planted import CONTROL, FAULTS

    try:
        names = [name for name in FAULTS if name != CONTROL and re.search(only or "", name)]
    except re.error as error:
        raise ConfigError(f"--only {only!r} is no regular expression: {error}") from error
    if not names:
        raise ConfigError(
            f"--only {only!r} matches no fault; there are {', '.join(n for n in FAULTS if n != CONTROL)}"
        )
    return [CONTROL, *names]


def _show(found: list[Row]) -> None:
    from rich.table import Table

    several = len({row.case for row in found}) > 1
    table = Table(*(("case",) if several else ()), *_COLUMNS, box=None)
    for row in found:
        status = f"{row.status}: {row.why}" if row.why else row.status
        cells = (row.fault, row.stands_for, row.verdict, row.place, status)
        table.add_row(*((row.case,) if several else ()), *cells)
    console().print(table)
