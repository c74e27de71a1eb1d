"""`parity verify`: check every byte in the store."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter

from harness.commands.output import add_store, opened
from harness.errors import EXIT_DIFFERENT, EXIT_EQUIVALENT, EXIT_USAGE

_EXAMPLES = """\
examples:
  parity verify
  parity verify --store /shared/store --threads 16
"""


def describe(parser: argparse.ArgumentParser) -> None:
    """Arguments and help."""
    parser.description = (
        "Check every file in the store against its checksum. What is damaged is moved to the"
        " store's folder `quarantine` with the reason beside it, and made again by the next run"
        " that needs it. Exit code 0: everything is as it was written; 1: something was damaged;"
        " 2: something could not be read, and was left alone."
    )
    parser.epilog = _EXAMPLES
    add_store(parser)
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="default: one for each core"
    )


def run(args: argparse.Namespace) -> int:
    """Carry out the verb."""
    from harness.store.upkeep import verify

    counts: dict[str, Counter[str]] = {
        state: Counter() for state in ("whole", "damaged", "unreadable")
    }
    for checked in verify(opened(args.store), max(1, args.threads)):
        counts[checked.state][checked.kind] += 1
        if checked.detail:
            print(f"parity: {checked.detail}", file=sys.stderr)
    print(f"as it was written: {_listed(counts['whole']) or 'nothing'}")
    if counts["damaged"]:
        print(f"damaged and moved to {args.store / 'quarantine'}: {_listed(counts['damaged'])}")
    if counts["unreadable"]:
        print(f"could not be read, and left alone: {_listed(counts['unreadable'])}")
    if counts["damaged"]:
        return EXIT_DIFFERENT
    return EXIT_USAGE if counts["unreadable"] else EXIT_EQUIVALENT


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
