"""`parity audit`: compare two checkpoints, or look over a run's settings, without rendering."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from harness.audit import audit
from harness.commands.output import console
from harness.config.folders import conf_folders
from harness.errors import EXIT_DIFFERENT, EXIT_EQUIVALENT, ParityError

if TYPE_CHECKING:
    from harness.audit.records import AuditReport

_EXAMPLES = """\
examples:
  parity audit CogVideoX-5b my-converted-folder
  parity audit my-sat-folder my-diffusers-folder --json audit.json
  parity audit before/transformer after/transformer
  parity audit sat/vae/3d-vae.pt CogVideoX-5b/vae/diffusion_pytorch_model.safetensors
  parity audit micro-5b half-precision-copy --dtype float16
  parity audit CogVideoX-5b fused-folder --lora pytorch_lora_weights.safetensors
  parity audit CogVideoX-5b pytorch_lora_weights.safetensors      do its keys fit?
  parity audit --config 'case=[cogvideox_5b]' reference.dtype=float16

exit codes:
  0 identical up to layout (and rounding to --dtype); with --config: no hazard
  1 different; with --config: hazards found
  2 usage, or a checkpoint that is damaged or cannot be read
  3 nothing different, but not everything that either side has was compared
"""
_DTYPES = ("float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "int8")


def describe(parser: argparse.ArgumentParser) -> None:
    """Arguments and help."""
    parser.description = (
        "Compare two checkpoints tensor by tensor and setting by setting, without rendering:"
        " SAT or Diffusers folders, folders of one component, or single .pt and .safetensors files,"
        " in any combination. Says what a difference is: projections swapped, chunks regrouped,"
        " values rounded, a block of another checkpoint, the scaling factor of another family."
        " Needs memory for a few tensors only. With --config, look over the settings of a run"
        " instead, as `parity run` does before it renders."
    )
    parser.epilog = _EXAMPLES
    add = parser.add_argument
    add("what", nargs="*", metavar="CHECKPOINT", help="the reference, then the candidate: folders,"
        " files, or micro models' names; with --config: settings as of `parity run`")  # fmt: skip
    add("--config", action="store_true", help="audit the settings of a run, not checkpoints")
    add("--config-dir", type=Path, metavar="DIR", help="with --config: a folder with settings of"
        " your own")  # fmt: skip
    add(
        "--dtype", choices=_DTYPES, help="the precision that the candidate is meant to be stored in"
    )
    add("--lora", type=Path, metavar="FILE", help="the LoRA that was meant to be fused into the"
        " candidate")  # fmt: skip
    add("--lora-scale", type=float, default=1.0, metavar="S", help="how many times it was meant to be"
        " added (default: %(default)s)")  # fmt: skip
    add("--rows", type=int, default=12, help="tensors to show, worst first (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write the whole report there as JSON")


def run(args: argparse.Namespace) -> int:
    """Carry out the verb."""
    if args.json is not None and not args.json.parent.is_dir():
        raise ParityError(
            f"--json {args.json}: there is no folder {args.json.parent}; make it first"
        )
    if args.config:
        return _settings(args)
    if not (math.isfinite(args.lora_scale) and args.lora_scale != 0):
        raise ParityError(f"--lora-scale {args.lora_scale:g}: give a finite number other than 0")
    if args.lora_scale != 1.0 and args.lora is None:
        raise ParityError(
            "--lora-scale says how strongly a LoRA was fused; name the LoRA with --lora"
        )
    if len(args.what) != 2:
        raise ParityError(
            f"parity audit compares two checkpoints, and {len(args.what)} were named; see"
            " parity audit --help"
        )
    from harness.audit.table import print_report

    report = _with_progress(args)
    if args.json is not None:
        args.json.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
    print_report(report, console(), args.rows)
    return report.exit_code


def _settings(args: argparse.Namespace) -> int:
    """List the hazards of a run's settings."""
    from harness.audit.hazards import hazards
    from harness.config.compose import compose_tree
    from harness.config.config import build
    from harness.report.text import counted, visible

    found = hazards(build(compose_tree(args.what, conf_folders(args.config_dir))))
    if args.json is not None:
        records = [hazard.model_dump(mode="json") for hazard in found]
        args.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    out = console()
    for number, hazard in enumerate(found, start=1):
        out.print(f"{number}. {visible(hazard.detail)}", style="bold yellow", markup=False)
        if hazard.remedy:
            out.print(f"   {visible(hazard.remedy)}", markup=False, highlight=False)
    out.print(f"{counted(len(found), 'hazard')} in these settings", markup=False)
    return EXIT_DIFFERENT if found else EXIT_EQUIVALENT


def _with_progress(args: argparse.Namespace) -> AuditReport:
    """Audit with a bar on standard error, shown where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    err = Console(stderr=True)
    columns = ("reading", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def shown(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        reference, candidate = args.what
        return audit(
            reference,
            candidate,
            dtype=args.dtype,
            lora=args.lora,
            lora_scale=args.lora_scale,
            progress=shown,
        )
