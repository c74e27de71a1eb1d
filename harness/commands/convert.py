"""`parity convert`: convert a checkpoint between SAT and Diffusers.

The one verb that opens checkpoints in this process: it needs torch, and no stack.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from backends.micro import checkpoint_path
from harness.commands.output import console

if TYPE_CHECKING:
    from backends.checkpoints import ConversionReport

_EXAMPLES = """\
examples:
  parity convert micro-2b micro-2b-sat --to sat
  parity convert CogVideoX-2b CogVideoX-2b-sat --to sat
  parity convert my-sat-finetune my-diffusers-folder --to diffusers
  parity convert ckpts/lora-disney-09-09-21-10 my-lora --to diffusers
"""


def describe(parser: argparse.ArgumentParser) -> None:
    """Arguments and help."""
    parser.description = (
        "Convert a whole model folder, or a LoRA, between SAT and Diffusers, every tensor to the"
        " bit: what was written is read back and compared with the source by digest. Converting"
        " back restores the source's own files."
    )
    parser.epilog = _EXAMPLES
    parser.add_argument("source", metavar="SOURCE", help="a model folder, a LoRA, or a micro"
        " model's or LoRA's name")  # fmt: skip
    parser.add_argument("destination", type=Path, metavar="DESTINATION", help="a new folder")
    parser.add_argument("--to", choices=["sat", "diffusers"], required=True, help="the new format")


def run(args: argparse.Namespace) -> int:
    """Carry out the verb."""
    from backends.checkpoints import convert

    _print_report(convert(checkpoint_path(args.source), args.destination, args.to))
    return 0


def _print_report(done: ConversionReport) -> None:
    from rich.table import Table

    table = Table("component", "tensors", "dtypes", "renamed", "cut or joined", "digest", box=None)
    for part in done.components:
        dtypes = ", ".join(f"{count} {name}" for name, count in part.dtypes.items())
        counts = (str(part.renamed), str(part.regrouped))
        table.add_row(
            part.component, str(part.tensors), dtypes, *counts, f"{part.digest_after[:12]} equal"
        )
    out = console()
    out.print(table)
    for notice in done.notices:
        out.print(f"{notice.action}: {notice.what}: {notice.why}", markup=False)
    what = "LoRA" if [c.component for c in done.components] == ["lora"] else "model"
    out.print(f"{done.destination} holds {done.source} as a {done.to} {what}", markup=False)
