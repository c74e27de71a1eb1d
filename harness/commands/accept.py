"""`parity accept`: keep what a run rendered as goldens for CI."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.errors import EXIT_EQUIVALENT, EXIT_UNDECIDED

_EXAMPLES = """\
examples:
  parity accept                                   the newest run, into ./goldens
  parity accept results/runs/20260102-030405-abcd --goldens tests/goldens
"""


def describe(parser: argparse.ArgumentParser) -> None:
    """Arguments and help."""
    parser.description = (
        "Accept the candidates of a run's equivalent pairs: write their digests as goldens, keyed by"
        " hardware, dtypes and versions, for assert_golden(name=...) of the pytest plugin. Refused"
        " where CI=true, and for pairs that are not equivalent."
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
        "--goldens", type=Path, default=Path("goldens"), help="where to write; default: goldens"
    )
    parser.add_argument(
        "--store", type=Path, help="where the run store lies now; default: where the run had it"
    )


def run(args: argparse.Namespace) -> int:
    """Carry out the verb; 0 only if every pair was accepted."""
    from harness.api.goldens import GoldenError, accept, read_golden, refuse_in_ci
    from harness.records import EQUIVALENT
    from harness.report.reading import RunFiles
    from harness.store.store import Store

    refuse_in_ci()
    files = RunFiles.open(args.folder, args.store or Path())
    store = Store(args.store or Path(files.result.config["store"]))
    refused = 0
    for pair in files.result.pairs:
        if pair.verdict not in EQUIVALENT:
            refused += 1
            print(f"not accepted: {pair.case}, {pair.candidate}: the verdict is {pair.verdict}")
            continue
        if not pair.renders:
            refused += 1
            print(
                f"not accepted: {pair.case}, {pair.candidate}: nothing was rendered (`parity probe`)"
            )
            continue
        keys = pair.renders["candidate"].values()
        renders = [record for key in keys if (record := store.find(key)) is not None]
        golden = read_golden(
            f"{pair.case}-{pair.candidate}",
            store,
            renders,
            {"run": files.result.run, "commit": files.result.commit or "", "verdict": pair.verdict},
        )
        try:
            print(f"accepted: {accept(args.goldens, golden)}")
        except GoldenError as error:
            refused += 1
            print(f"not accepted: {pair.case}, {pair.candidate}: {error}")
    return EXIT_UNDECIDED if refused or not files.result.pairs else EXIT_EQUIVALENT
