"""The `parity` command: choose a verb and hand over to it.

Nothing heavy is imported before the verb asks for it, so that help is there at once.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol, cast

from backends.errors import suggest
from harness.errors import EXIT_USAGE, ParityError
from harness.failures import guarded, usable_streams

_VERBS = {
    "run": "render, score, judge and report",
    "render": "render only, into the run store",
    "score": "render what is missing, and print the metrics",
    "judge": "render what is missing, and print the verdicts",
    "probe": "compare every stage on the same inputs, and render nothing",
    "bisect": "find the settings that carry a difference",
    "report": "write the report of an earlier run again",
    "accept": "keep what a run rendered as goldens for CI",
    "convert": "convert a checkpoint between SAT and Diffusers",
    "roundtrip": "fine-tune with learning rate 0, and say what changed",
    "selftest": "plant faults in a copy of the reference, and say which are caught",
    "audit": "compare two checkpoints without rendering",
    "doctor": "say what works on this machine, and how to mend the rest",
    "fetch": "get the weights that a metric needs",
    "ls": "list the renders in the store",
    "verify": "check every byte in the store",
    "gc": "remove from the store what nothing needs",
    "export": "write Parquet tables, or log to MLflow",
}

_HELP = """\
usage: parity VERB [SETTING ...] [OPTIONS]

The same CogVideoX model, run in two places, gives different videos: is that a
bug, or only rounding and sampling randomness, and if a bug, where?

verbs:
{verbs}

examples:
  parity doctor                                    what works here
  parity run experiment=demo                       every backend on the embedded models
  parity run 'candidate=[sat]' 'seeds=[0,1,2]'     SAT against Diffusers, three seeds
  parity VERB --help                               the options and settings of a verb

exit codes:
  0 equivalent   1 bug or broken   2 usage, configuration, prerequisite, a failed render
  3 inconclusive, or nothing was compared
"""


class Verb(Protocol):
    """What each module in `harness.commands` that is named after a verb offers."""

    def describe(self, parser: argparse.ArgumentParser) -> None:
        """Add description, arguments and examples. Serves `--help`, so it imports nothing heavy."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Carry out the verb and return the exit code."""
        ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv`, by default the process's own, and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not usable_streams():
        return EXIT_USAGE
    return guarded(lambda: _dispatch(arguments))


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = (f"  {name:<10}{summary}" for name, summary in _VERBS.items())
        print(_HELP.format(verbs="\n".join(lines)), end="")
        return 0 if arguments else EXIT_USAGE
    if arguments[0] == "--version":
        print(f"parity {_version()}")
        return 0
    name, *rest = arguments
    if name not in _VERBS:
        raise ParityError(f"there is no verb {name!r}{suggest(name, _VERBS)}. See parity --help")
    verb = cast(Verb, import_module(f"harness.commands.{name}"))
    parser = argparse.ArgumentParser(
        prog=f"parity {name}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verb.describe(parser)
    parser.description = textwrap.fill(parser.description or "", 79)
    try:
        args = parser.parse_intermixed_args(rest)
    except SystemExit as stop:  # argparse has printed its help (0) or what is wrong (2)
        return int(stop.code or 0)
    return verb.run(args)


def _version() -> str:
    try:
        return version("cogvideox-parity")
    except PackageNotFoundError:
        return "from a checkout that is not installed"
