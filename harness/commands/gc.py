"""`parity gc`: remove from the store what nothing needs."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands.output import add_store, opened

_EXAMPLES = """\
examples:
  parity gc --dry-run                    what would go, and what that frees
  parity gc                              what crashed workers and damage left behind
  parity gc --failed --unused            also failed attempts, and what no run names
"""


def describe(parser: argparse.ArgumentParser) -> None:
    """Arguments and help."""
    parser.description = (
        "Remove unfinished work whose worker is gone, dead leases, and what was moved to quarantine."
        " It is safe while runs are going on: what a live worker is making is left alone."
    )
    parser.epilog = _EXAMPLES
    add_store(parser)
    add = parser.add_argument
    add("--failed", action="store_true", help="also attempts that ended in an error")
    add("--unused", action="store_true", help="also renders that no run names, with their inputs;"
        " a sweep that only renders names none")  # fmt: skip
    add("--results", type=Path, default=Path("results"), help="where the runs lie, for --unused;"
        " default: %(default)s")  # fmt: skip
    add("--dry-run", action="store_true", help="only say what would be removed")


def run(args: argparse.Namespace) -> int:
    """Carry out the verb."""
    from itertools import chain

    from harness import upkeep

    store = opened(args.store)
    found = chain(
        upkeep.leftovers(store),
        upkeep.failures(store) if args.failed else (),
        upkeep.unused(store, args.results) if args.unused else (),
    )
    rubbish = {item.path: item for item in found}
    for item in rubbish.values():
        if args.dry_run:
            print(f"{item.path.relative_to(store.root)}: {item.reason}")
        else:
            item.remove()
    leases = store.leases.sweep_up(dry_run=args.dry_run)
    freed = sum(item.size_bytes for item in rubbish.values()) / 2**20
    would = "would be " if args.dry_run else ""
    print(f"{len(rubbish)} folders and {leases} dead leases {would}removed, {freed:.1f} MiB")
    return 0
