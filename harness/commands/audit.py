"""`parity audit`: compare two checkpoints without rendering, or look over a run's settings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.output import console
from harness.errors import ParityError

if TYPE_CHECKING:
    from harness.audit.records import AuditReport

_EXAMPLES = """\
examples:
  parity audit CogVideoX-5b my-converted-folder
  parity audit my-sat-folder my-diffusers-folder --json audit.json
  parity audit before/transformer after/transformer
  parity audit sat/vae/3d-vae.pt CogVideoX-5b/vae
  parity audit micro-5b half-precision-copy --dtype float16

exit codes:
  0 identical up to layout (and rounding to --dtype)   1 different   2 usage
"""
_DTYPES = ("float32", "bfloat16", "float16")


def describe(parser: argparse.ArgumentParser) -> None:
    """Arguments and help."""
    parser.description = (
        "Compare two checkpoints tensor by tensor and setting by setting, without rendering:"
        " SAT or Diffusers folders, folders of one component, or single .pt and .safetensors files,"
        " in any combination. Says what a difference is: projections swapped, chunks regrouped,"
        " values rounded, a block of another checkpoint, the scaling factor of another family."
        " Needs memory for a few tensors only."
    )
    parser.epilog = _EXAMPLES
    add = parser.add_argument
    add("reference", metavar="REFERENCE", help="a folder, a file, or a micro model's name")
    add("candidate", metavar="CANDIDATE", help="what is compared with it")
    add(
        "--dtype", choices=_DTYPES, help="the precision that the candidate is meant to be stored in"
    )
    add("--rows", type=int, default=12, help="tensors to show, worst first (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write the whole report there as JSON")


def run(args: argparse.Namespace) -> int:
    """Carry out the verb."""
    from harness.audit.table import print_report

    if args.json is not None and not args.json.parent.is_dir():
        raise ParityError(
            f"--json {args.json}: there is no folder {args.json.parent}; make it first"
        )
    report = _with_progress(args)
    if args.json is not None:
        args.json.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
    print_report(report, console(), args.rows)
    return report.exit_code


def _with_progress(args: argparse.Namespace) -> AuditReport:
    """Audit with a bar on standard error, shown where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    from harness.audit import audit

    err = Console(stderr=True)
    columns = ("reading", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def shown(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return audit(args.reference, args.candidate, dtype=args.dtype, progress=shown)
