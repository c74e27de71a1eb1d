"""`parity ls`: list the renders in the store."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.output import console
from harness.errors import StoreError

if TYPE_CHECKING:
    from harness.records import RenderRecord

_EXAMPLES = """\
examples:
  parity ls
  parity ls --status error
  parity ls --json | jq .key             one JSON record a line
"""
_KEY_LENGTH = 8


def describe(parser: argparse.ArgumentParser) -> None:
    """Arguments and help."""
    parser.description = "List the renders in the store, newest first."
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "--store", type=Path, default=Path("results/store"), help="default: %(default)s"
    )
    parser.add_argument(
        "--status", choices=["ok", "unsupported", "error"], help="only renders that ended this way"
    )
    parser.add_argument("--json", action="store_true", help="whole records, one a line")


def run(args: argparse.Namespace) -> int:
    """Carry out the verb."""
    from harness.store import Store

    if not args.store.is_dir():
        raise StoreError(
            f"there is no store {args.store}; render something first, or say where it is with"
            " --store"
        )
    records = [r for r in Store(args.store).renders() if args.status in (None, r.status)]
    records.sort(key=lambda record: record.created, reverse=True)
    if args.json:
        for record in records:
            sys.stdout.write(record.model_dump_json() + "\n")
    else:
        _print_table(records)
    return 0


def _print_table(records: list[RenderRecord]) -> None:
    from rich.table import Table
    from rich.text import Text

    from harness.report.text import visible

    table = Table(box=None, pad_edge=False)
    for title in ("key", "case", "variant", "seed", "shares", "status", "created (UTC)"):
        table.add_column(title, overflow="fold", no_wrap=title in ("key", "created (UTC)"))
    for record in records:
        table.add_row(
            record.key[:_KEY_LENGTH],
            visible(record.case["name"]),
            visible(record.variant["name"]) + (" (rerun)" if record.repeat else ""),
            str(record.seed),
            f"{len(record.share)} factors" if record.share else "nothing",
            Text(record.status, "" if record.status == "ok" else "yellow"),
            record.created[:16].replace("T", " "),
        )
    out = console()
    out.print(table)
    for record in records:
        if record.message:
            out.print(
                f"{record.key[:_KEY_LENGTH]} {record.status}: {visible(record.message)}",
                style="yellow",
                markup=False,
                soft_wrap=True,
            )
    out.print(f"{len(records)} renders")
