"""`parity doctor`: say what works on this machine, and how to mend the rest."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from backends.worker.extras import command, missing
from harness.commands.output import console
from harness.errors import EXIT_EQUIVALENT, EXIT_USAGE

if TYPE_CHECKING:
    from harness.doctor.doctor import Row

_EXAMPLES = """\
examples:
  parity doctor
  parity doctor --json | jq '.rows[] | select(.state != "works")'
"""
_STYLES = {"works": "green", "unsupported": "yellow", "fails": "bold red"}


def describe(parser: argparse.ArgumentParser) -> None:
    """Arguments and help."""
    parser.description = (
        "Try every backend, device, dtype and metric with something tiny, and say what works here,"
        " what does not, and the command that mends it. Takes minutes on a CPU. Exit code 0: what"
        " is installed works; 2: something that the demo needs fails."
    )
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="the folder that runs would write to, default: %(default)s",
    )
    parser.add_argument("--json", action="store_true", help="rows as JSON on stdout")


def run(args: argparse.Namespace) -> int:
    """Carry out the verb."""
    import json

    from harness.doctor.doctor import examine

    def announce(what: str) -> None:
        print(f"trying {what}", file=sys.stderr, flush=True)

    rows = list(examine(args.results, announce))
    ready = all(row.state == "works" for row in rows if row.needed)
    if args.json:
        print(json.dumps({"ready": ready, "rows": [asdict(row) for row in rows]}, indent=1))
    else:
        _print_table(rows, ready)
    return EXIT_EQUIVALENT if ready else EXIT_USAGE


def _print_table(rows: list[Row], ready: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from harness.report.text import visible

    table = Table("", "", "", box=None, pad_edge=False, show_header=False)
    # commands are copied from this column, so nothing may be cut off
    table.add_column("", overflow="fold")
    last = ""
    for row in rows:
        detail = Text("\n".join(visible(line) for line in row.detail.splitlines()))
        if row.remedy:
            detail.append(f"\nmend it: {visible(row.remedy)}", "bold")
        area = "" if row.area == last else row.area
        table.add_row(area, row.what, Text(row.state, _STYLES[row.state]), detail)
        last = row.area
    out = console()
    out.print(table)
    failing = ", ".join(f"{r.area} {r.what}" for r in rows if r.needed and r.state != "works")
    if not ready:
        out.print(f"\nThe demo cannot run until this works: {failing}")
    elif missing("sat"):
        out.print(f"\nWhat is installed works. The demo needs more: {command('sat')}", markup=False)
    else:
        out.print("\nThe demo can run: parity run experiment=demo")
