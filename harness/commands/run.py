"""`parity run`: render, score, judge and report."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from harness.commands.judge import judged
from harness.commands.request import Request
from harness.commands.settings import add_settings, carry_out

if TYPE_CHECKING:
    from harness.config.config import RunConfig

_EXAMPLES = """\
  parity run experiment=demo
  parity run 'case=[micro_2b]' 'candidate=[sat,sat_native]' 'seeds=[0,1,2]'
  parity run 'case=[cogvideox_5b]' reference.dtype=bfloat16 reference.device=cuda
  parity run -m match=shared,native
"""


def describe(parser: argparse.ArgumentParser) -> None:
    """Arguments and help."""
    add_settings(
        parser,
        "Render every case with the reference and each candidate, score and judge the pairs, and"
        " write the report. What the store already holds is not rendered again.",
        _EXAMPLES,
    )


def run(args: argparse.Namespace) -> int:
    """Carry out the verb."""
    return carry_out(args, "run", job)


def job(config: RunConfig, request: Request) -> int:
    """One run, from configuration to report."""
    from harness import report

    folder, result = judged(config, request)
    print(f"report: {report.write(folder, config.store)}")
    return result.exit_code
