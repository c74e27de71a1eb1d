"""`parity verify`: check every byte in the store."""

from __future__ import annotations

import argparse
import os
from collections import Counter

from harness.commands.output import add_store, opened
from harness.errors import EXIT_DIFFERENT, EXIT_EQUIVALENT

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
        " that needs it. Exit code 0: everything is as it was written; 1: something was damaged."
    )
    parser.epilog = _EXAMPLES
    add_store(parser)
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="default: one for each core"
    )


def run(args: argparse.Namespace) -> int:
    """Carry out the verb."""
    from harness.upkeep import verify

    whole, damaged = Counter[str](), Counter[str]()
    for checked in verify(opened(args.store), max(1, args.threads)):
        (whole if checked.whole else damaged)[checked.kind] += 1
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(whole.items())) or "nothing"
    print(f"as it was written: {counts}")
    if damaged:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(damaged.items()))
        print(f"damaged and moved to {args.store / 'quarantine'}: {counts}")
    return EXIT_DIFFERENT if damaged else EXIT_EQUIVALENT
