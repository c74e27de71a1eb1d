"""`parity report`: write the report of an earlier run again."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands.output import console

_EXAMPLES = """\
examples:
  parity report                          the newest run
  parity report results/runs/20260102-030405-abcd
"""


def describe(parser: argparse.ArgumentParser) -> None:
    """Arguments and help."""
    parser.description = (
        "Print the verdicts of an earlier run and write its report (index.html, report.md) again,"
        " from the run folder and the store alone. The exit code is the run's own."
    )
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("results/latest"),
        metavar="RUN_FOLDER",
        help="default: results/latest, the newest run",
    )
    parser.add_argument(
        "--store", type=Path, help="where the run store lies now; default: where the run had it"
    )


def run(args: argparse.Namespace) -> int:
    """Carry out the verb."""

    from harness import report
    from harness.report.reading import RunFiles

    result = RunFiles.open(args.folder, args.store or Path()).result
    store = args.store or Path(result.config["store"])
    report.print_matrix(result, console(), store)
    print(f"report: {report.write(args.folder, store)}")
    return result.exit_code
