"""Plant faults and harmless changes, and measure what the verdict makes of them.

The project's own measurement, run from the repository's root: `python -m tests.selftest --help`.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from harness.commands.output import console
from harness.errors import EXIT_DIFFERENT, EXIT_EQUIVALENT
from harness.failures import guarded
from tests.selftest import two_faults
from tests.selftest.choose import choose, choose_pairs
from tests.selftest.measure import CAUGHT, measure
from tests.selftest.table import markdown, summary

_EXAMPLES = """\
examples:
  python -m tests.selftest --sample 20
  python -m tests.selftest --only 'rope|gain' --out results/selftest/some.jsonl
  python -m tests.selftest --markdown table.md
  python -m tests.selftest --pairs --out results/selftest/pairs.jsonl --markdown pairs.md
"""


def main() -> int:
    """Carry out the command line and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.selftest",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=textwrap.fill(
            "Plant known faults and harmless changes in the embedded models, run the whole procedure on"
            " each, and print how many were caught, how many healthy ones were called bugs, and what the"
            " usual gates say of the same renders. Exit code 1 if a fault was missed or a healthy"
            " configuration was called a bug.",
            79,
        ),
        epilog=_EXAMPLES,
    )
    add = parser.add_argument
    add("--sample", type=int, metavar="N", help="about N faults and N healthy rows, spread evenly")
    add("--pairs", action="store_true", help="two faults at once, instead of single rows")
    add("--only", metavar="REGEX", help="rows whose id matches")
    add("--out", type=Path, default=Path("results/selftest/outcomes.jsonl"), metavar="FILE",
        help="one line a row; rows that it holds already are not run again")  # fmt: skip
    add("--work", type=Path, default=Path("results/selftest/work"), metavar="DIR",
        help="the store and the runs of the measurement")  # fmt: skip
    add("--markdown", type=Path, metavar="FILE", help="write the full table there")
    args = parser.parse_args()
    return guarded(lambda: _pairs(args) if args.pairs else _single(args))


def _single(args: argparse.Namespace) -> int:
    out, rows = console(), choose(args.only, args.sample)
    outcomes = []
    for count, outcome in enumerate(measure(rows, args.out, args.work), start=1):
        outcomes.append(outcome)
        mark = "ok" if outcome.right else "WRONG"
        out.print(
            f"{count}/{len(rows)} {outcome.id}: {outcome.verdict or outcome.error}"
            f" {','.join(outcome.named)} {mark}",
            markup=False,
            soft_wrap=True,
        )
    out.print(summary(outcomes), markup=False, soft_wrap=True)
    if args.markdown is not None:
        args.markdown.write_text(markdown(outcomes))
    missed = any(o.faulty and o.verdict not in CAUGHT for o in outcomes)
    alarms = any(not o.faulty and (o.verdict in CAUGHT or o.error) for o in outcomes)
    return EXIT_DIFFERENT if missed or alarms or not outcomes else EXIT_EQUIVALENT


def _pairs(args: argparse.Namespace) -> int:
    out, rows = console(), choose_pairs(args.only, args.sample)
    outcomes = []
    for count, outcome in enumerate(two_faults.measure_pairs(rows, args.out, args.work), start=1):
        outcomes.append(outcome)
        mark = "ok" if all(outcome.found) else "NOT BOTH"
        out.print(
            f"{count}/{len(rows)} {outcome.id}: {outcome.verdict or outcome.error}"
            f" {','.join(outcome.named)} {mark}",
            markup=False,
            soft_wrap=True,
        )
    out.print(two_faults.summary(outcomes), markup=False, soft_wrap=True)
    if args.markdown is not None:
        args.markdown.write_text(two_faults.markdown(outcomes))
    return EXIT_EQUIVALENT if all(o.verdict in CAUGHT for o in outcomes) else EXIT_DIFFERENT


if __name__ == "__main__":
    raise SystemExit(main())
