"""`parity probe`: the local verdict alone, without rendering a video."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from harness.commands.judge import judged
from harness.commands.request import Request
from harness.commands.settings import add_settings, carry_out

if TYPE_CHECKING:
    from harness.config.config import RunConfig

_EXAMPLES = """\
  parity probe 'case=[micro_2b]' 'candidate=[sat]'
  parity probe 'case=[cogvideox_5b]' reference.dtype=bfloat16 reference.device=cuda
"""


def describe(parser: argparse.ArgumentParser) -> None:
    """Arguments and help."""
    add_settings(
        parser,
        "Compare every stage on the same inputs, and render nothing: text encoder, transformer,"
        " guidance, solver and decoder beside the reference's own noise floor. The loop around the"
        " stages is not run; `parity run` looks at that, too.",
        _EXAMPLES,
    )


def run(args: argparse.Namespace) -> int:
    """Carry out the verb."""
    return carry_out(args, "probe", job)


def job(config: RunConfig, request: Request) -> int:
    """One configuration, up to its local verdicts."""
    return judged(config, request, "probe")[1].exit_code
