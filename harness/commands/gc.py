"""`parity gc`: remove from the store what nothing needs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.output import add_store, opened
from harness.errors import StoreError

if TYPE_CHECKING:
    from harness.store.store import Store
    from harness.store.upkeep import Rubbish

_EXAMPLES = """\
examples:
  parity gc --dry-run                    what would go, and what that frees
  parity gc                              what crashed workers left behind
  parity gc --failed --unused            also failed attempts, and what no run names; asks first
  parity gc --damaged --yes              also what was moved to quarantine; asks nothing
"""


def describe(parser: argparse.ArgumentParser) -> None:
    """Arguments and help."""
    parser.description = (
        "Remove unfinished work whose worker is gone, and dead leases. What a live worker is making is"
        " left alone. Anything else is removed only on request, after it was listed and confirmed."
    )
    parser.epilog = _EXAMPLES
    add_store(parser)
    add = parser.add_argument
    add("--failed", action="store_true", help="also attempts that ended in an error")
    add("--damaged", action="store_true", help="also what was found damaged, in `quarantine`")
    add("--unused", action="store_true", help="also renders that no run names, with their inputs;"
        " the store knows where its runs lie, and refuses while one is going on")  # fmt: skip
    add("--results", type=Path, action="append", default=[], metavar="DIR", help="a folder with"
        " runs that were moved, or are older than the store's own list; repeatable")  # fmt: skip
    add("--forget-missing", action="store_true", help="a run whose folder is gone was deleted and"
        " needs nothing any more")  # fmt: skip
    add("--yes", action="store_true", help="remove without asking")
    add("--dry-run", action="store_true", help="only say what would be removed")


def run(args: argparse.Namespace) -> int:
    """Carry out the verb."""
    from harness.store import runs as store_runs
    from harness.store import upkeep

    store = opened(args.store)
    with ExitStack() as stack:
        if args.unused:
            stack.enter_context(store_runs.cleaning(store))
        asked = [
            *(upkeep.damaged(store) if args.damaged else ()),
            *(upkeep.failures(store) if args.failed else ()),
            *(_unused(store, args) if args.unused else ()),
        ]
        leftovers = list(upkeep.leftovers(store))
        wanted = list({item.path: item for item in (*asked, *leftovers)}.values())
        if args.dry_run or asked:
            for item in wanted:
                print(f"{item.path.relative_to(store.root)}: {item.reason}")
        if asked and not args.dry_run:
            _confirm(asked, args.yes)
        removed = wanted if args.dry_run else [item for item in wanted if item.remove(store)]
        if args.unused and args.forget_missing and not args.dry_run:
            store_runs.forget(store)
    leases = store.leases.sweep_up(dry_run=args.dry_run)
    freed = sum(item.size_bytes for item in removed) / 2**20
    would = "would be " if args.dry_run else ""
    print(f"{len(removed)} folders and {leases} dead leases {would}removed, {freed:.1f} MiB")
    return 0


def _unused(store: Store, args: argparse.Namespace) -> list[Rubbish]:
    from harness.store import runs as store_runs
    from harness.store import upkeep

    uses = store_runs.uses(store, args.results, args.forget_missing)
    return list(upkeep.unused(store, uses))


def _confirm(asked: Sequence[Rubbish], yes: bool) -> None:
    """Raises `StoreError` unless the user agrees."""
    if yes:
        return
    size = sum(item.size_bytes for item in asked) / 2**20
    if not sys.stdin.isatty():
        raise StoreError(
            f"nothing was removed: {len(asked)} folders ({size:.1f} MiB) listed above would go; nobody"
            " can be asked here, so repeat with --yes"
        )
    if input(f"remove {len(asked)} folders, {size:.1f} MiB? [y/N] ").strip().lower() != "y":
        raise StoreError("nothing was removed")
