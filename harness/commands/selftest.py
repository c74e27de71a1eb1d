"""`parity selftest`: plant faults and harmless changes, and measure what the verdict makes of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands.output import console
from harness.errors import EXIT_DIFFERENT, EXIT_EQUIVALENT

_EXAMPLES = """\
examples:
  parity selftest --sample 20
  parity selftest --only 'rope|gain' --out results/selftest/some.jsonl
  parity selftest --markdown table.md
  parity selftest --pairs --out results/selftest/pairs.jsonl --markdown pairs.md
"""


def describe(parser: argparse.ArgumentParser) -> None:
    """Arguments and help."""
    parser.description = (
        "Plant known faults and harmless changes in the embedded models, run the whole procedure on"
        " each, and print how many were caught, how many healthy ones were called bugs, and what the"
        " usual gates say of the same renders. Exit code 1 if a fault was missed or a healthy"
        " configuration was called a bug."
    )
    parser.epilog = _EXAMPLES
    add = parser.add_argument
    add("--sample", type=int, metavar="N", help="about N faults and N healthy rows, spread evenly")
    add("--pairs", action="store_true", help="two faults at once, instead of single rows")
    add("--only", metavar="REGEX", help="rows whose id matches")
    add("--out", type=Path, default=Path("results/selftest/outcomes.jsonl"), metavar="FILE",
        help="one line a row; rows that it holds already are not run again")  # fmt: skip
    add("--work", type=Path, default=Path("results/selftest/work"), metavar="DIR",
        help="the store and the runs of the measurement")  # fmt: skip
    add("--markdown", type=Path, metavar="FILE", help="write the full table there")


def run(args: argparse.Namespace) -> int:
    """Carry out the verb."""
    if args.pairs:
        return _pairs(args)
    from harness.selftest.choose import choose
    from harness.selftest.measure import CAUGHT, measure
    from harness.selftest.table import markdown, summary

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
    from harness.selftest.choose import choose_pairs
    from harness.selftest.measure import CAUGHT
    from harness.selftest.two_faults import markdown, measure_pairs, summary

    out, rows = console(), choose_pairs(args.only, args.sample)
    outcomes = []
    for count, outcome in enumerate(measure_pairs(rows, args.out, args.work), start=1):
        outcomes.append(outcome)
        mark = "ok" if all(outcome.found) else "NOT BOTH"
        out.print(
            f"{count}/{len(rows)} {outcome.id}: {outcome.verdict or outcome.error}"
            f" {','.join(outcome.named)} {mark}",
            markup=False,
            soft_wrap=True,
        )
    out.print(summary(outcomes), markup=False, soft_wrap=True)
    if args.markdown is not None:
        args.markdown.write_text(markdown(outcomes))
    return EXIT_EQUIVALENT if all(o.verdict in CAUGHT for o in outcomes) else EXIT_DIFFERENT
