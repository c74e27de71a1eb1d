"""`parity ls`: list the renders in the store."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from harness.commands.output import add_store, opened

if TYPE_CHECKING:
    from harness.store.index import Row

_EXAMPLES = """\
examples:
  parity ls
  parity ls --status error
  parity ls --json | jq .key             one JSON record a line
"""
_KEY_LENGTH = 8
_TITLES = ("key", "case", "variant", "seed", "shares", "status", "created (UTC)")


def describe(parser: argparse.ArgumentParser) -> None:
    """Arguments and help."""
    parser.description = "List the renders in the store, newest first."
    parser.epilog = _EXAMPLES
    add_store(parser)
    parser.add_argument(
        "--status", choices=["ok", "unsupported", "error"], help="only renders that ended this way"
    )
    parser.add_argument("--json", action="store_true", help="whole records, one a line")


def run(args: argparse.Namespace) -> int:
    """Carry out the verb."""
    from harness.store.index import listing

    store = opened(args.store)
    rows = [row for row in listing(store) if args.status in (None, row.status)]
    if args.json:
        for row in rows:
            record = json.loads((store.render_folder(row.key) / "record.json").read_bytes())
            sys.stdout.write(json.dumps(record) + "\n")
    else:
        _print_table(rows)
    return 0


def _print_table(rows: list[Row]) -> None:
    """Plain columns: a table that measures and wraps ten thousand rows takes half a minute."""
    from harness.report.text import visible

    cells = [
        (
            row.key[:_KEY_LENGTH],
            visible(row.case),
            visible(row.variant)
            + (" (rerun)" if row.repeat else "")
            + ("" if row.member == "plain" else f" ({visible(row.member)})"),
            str(row.seed),
            f"{row.shares} factors" if row.shares else "nothing",
            row.status,
            row.created[:16].replace("T", " "),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(_TITLES, *cells, strict=True)]
    for line in (_TITLES, *cells):
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(padded).rstrip())
    for row in rows:
        if row.message:
            print(f"{row.key[:_KEY_LENGTH]} {row.status}: {visible(row.message)}")
    print(f"{len(rows)} renders")
