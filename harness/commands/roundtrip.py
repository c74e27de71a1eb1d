"""`parity roundtrip`: fine-tune with learning rate 0, and prove or disprove that nothing changed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.commands.output import console
from harness.errors import ParityError

if TYPE_CHECKING:
    from rich.table import Table

    from harness.audit.roundtrip import RoundTripResult, TensorChange

_EXAMPLES = """\
examples:
  parity roundtrip micro-5b --backend sat
  parity roundtrip micro-5b --backend diffusers --mode lora --lora micro-5b-magenta
  parity roundtrip my-model --backend diffusers --mode lora --no-lora-metadata
  parity roundtrip --before CogVideoX-5b-I2V --after my-finetune
  parity roundtrip CogVideoX-5b --before lora-at-step-0 --after lora-at-step-1

exit codes:
  0 nothing changed   1 something changed   2 usage or a folder that cannot be read
  3 the folders hold the same, but the function could not be computed
"""
_STAGES = {
    "load": "files before, as loaded",
    "step": "AdamW, learning rate 0",
    "save": "memory, as saved",
    "reload": "files after, as loaded",
}
_SHOWN = 3


def describe(parser: argparse.ArgumentParser) -> None:
    """Arguments and help."""
    parser.description = (
        "Drive one optimiser step with learning rate 0 through a stack's own save and load, or take"
        " two folders that exist, and compare every tensor to the bit, the settings stored with"
        " them, and one guided transformer call on fixed inputs."
    )
    parser.epilog = _EXAMPLES
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="what to fine-tune, or what a pair of LoRAs or"
        " transformers belongs to: a micro model's name or a local folder")  # fmt: skip
    add("--backend", choices=["diffusers", "sat"], help="the stack that fine-tunes")
    add("--mode", choices=["full", "lora"], default="full", help="default: %(default)s")
    add("--lora", metavar="LORA", help="the LoRA to start from; default: a fresh one")
    add("--before", type=Path, metavar="DIR", help="an existing folder, with --after")
    add("--after", type=Path, metavar="DIR", help="the folder after fine-tuning")
    add("--dtype", choices=["float32", "bfloat16", "float16"], help="to train and compute in;"
        " default: the dtype that is stored")  # fmt: skip
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: %(default)s")
    add("--no-lora-metadata", action="store_true", help="save a LoRA without what keeps its alpha, as"
        " CogVideo's finetune/trainer.py does, and as SAT files without their YAML")  # fmt: skip
    add("--keep", type=Path, metavar="DIR", help="keep the folder after the step there")
    add("--json", type=Path, metavar="FILE", help="write the result as JSON")
    add("--python", metavar="PATH", help="the interpreter that has the stack")
    add("--timeout-s", type=float, default=3600, metavar="S", help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """Carry out the verb."""
    from harness.audit.roundtrip import round_trip

    result = round_trip(_request(args), args.python, args.timeout_s)
    _print(result)
    if args.json is not None:
        args.json.write_text(result.model_dump_json(indent=1) + "\n")
    return result.exit_code


def _request(args: argparse.Namespace) -> dict[str, Any]:
    if (args.before is None) != (args.after is None):
        raise ParityError("--before and --after belong together; give both, or neither")
    driven = args.before is None
    if driven and (args.model is None or args.backend is None):
        raise ParityError(
            "nothing to fine-tune: give MODEL and --backend, or two folders with --before and --after"
        )
    if not driven and (args.backend or args.lora or args.keep or args.no_lora_metadata):
        raise ParityError(
            "--backend, --lora, --keep and --no-lora-metadata are for a step that is driven; with"
            " --before and --after the folders say it"
        )
    if args.mode == "full" and (args.lora or args.no_lora_metadata):
        raise ParityError("--lora and --no-lora-metadata need --mode lora")
    texts = {
        name: None if getattr(args, name) is None else str(getattr(args, name))
        for name in ("model", "backend", "lora", "dtype", "before", "after", "keep")
    }
    return texts | {
        "mode": args.mode,
        "device": args.device,
        "metadata": not args.no_lora_metadata,
    }


def _print(result: RoundTripResult) -> None:
    from rich.table import Table

    out = console()
    table = Table("stage", "what happened", "tensors", "which", box=None)
    for stage, words in _STAGES.items():
        if stage in result.stages:
            _rows(table, f"{stage}: {words}", result.stages[stage])
    _rows(table, "weights: before and after", result.weights)
    out.print(table)
    if (step := result.step) is not None:
        print(f"step: {step.with_gradient} of {step.parameters} parameters had a gradient")
    function = result.function
    if not function.computed:
        print(f"function: not computed. {function.why}")
    elif function.bit_equal:
        print(f"function: equal in every bit, in {result.options['dtype']}")
    else:
        print(f"function: relative L2 {function.rel_l2:.3g}, largest {function.max_abs:.3g}")
    where = f", kept in {result.after}" if result.after and result.step else ""
    print(f"{result.outcome}: {result.compared} tensors of {result.before}{where}")


def _rows(table: Table, title: str, changes: tuple[TensorChange, ...]) -> None:
    from rich.markup import escape

    if not changes:
        table.add_row(title, "nothing", "", "")
    for number, change in enumerate(changes):
        names = ", ".join(change.names[:_SHOWN])
        more = f" and {change.count - _SHOWN} more" if change.count > _SHOWN else ""
        table.add_row(
            "" if number else title,
            escape(f"{change.kind}: {change.detail}"),
            f"{change.count} of {change.of}",
            escape(names + more),
        )
