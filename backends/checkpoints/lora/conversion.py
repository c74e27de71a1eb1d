"""Conversion of a LoRA between SAT and Diffusers: every matrix to the bit, rank and alpha kept."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from backends.checkpoints.lora.diffusers import write_diffusers_lora
from backends.checkpoints.lora.lora import HEADER, WEIGHT_NAME, Lora
from backends.checkpoints.lora.reader import open_lora
from backends.checkpoints.lora.sat import YAML_NAME, check_representable, write_sat_lora
from backends.checkpoints.report import ComponentReport, Format, Notice
from backends.checkpoints.sidecar import SatOrigin, Sidecar, read_sidecar
from backends.checkpoints.tensors import dtype_name, state_digest
from backends.errors import CheckpointError


def write_lora(lora: Lora, folder: Path, to: Format) -> tuple[ComponentReport, list[Notice]]:
    """Write `lora` into `folder` in format `to` and read it back.

    Raises `Unsupported` for a LoRA that SAT's mixin cannot hold, and `CheckpointError` if what was
    written reads back differently.
    """
    home = lora.path.parent.parent if lora.iteration else lora.path.parent
    kept = read_sidecar(home)
    if to == "diffusers":
        header = (kept.diffusers or {}).get(HEADER)
        write_diffusers_lora(folder / WEIGHT_NAME, lora.tensors, lora.modules, header)
        name, text = next(iter(lora.texts.items()), (YAML_NAME, ""))
        Sidecar(sat=SatOrigin(name, text, lora.iteration or "1", {})).write(folder)
    else:
        check_representable(lora.modules)
        origin = kept.sat
        yaml_file = None if origin is None else (origin.config_name, origin.config_text)
        iteration = "1" if origin is None else origin.iteration
        write_sat_lora(folder, lora.tensors, lora.modules, iteration, yaml_file)
        Sidecar(diffusers=lora.texts).write(folder)
    written = open_lora(folder)
    before, after = state_digest(lora.tensors), state_digest(written.tensors)
    if before != after or dict(lora.modules) != dict(written.modules):
        raise CheckpointError(
            f"the LoRA read back from {folder} differs from {lora.path}; nothing was kept. The disk"
            " may be full or failing; try another one"
        )
    report = ComponentReport(
        component="lora",
        tensors=len(lora.tensors),
        dtypes=dict(Counter(dtype_name(tensor) for tensor in lora.tensors.values())),
        renamed=len(lora.tensors),
        regrouped=0,
        digest_before=before,
        digest_after=after,
    )
    return report, _notices(lora, to)


def _notices(lora: Lora, to: Format) -> list[Notice]:
    ranks = sorted({m.rank for m in lora.modules.values()})
    factors = sorted({m.scaling for m in lora.modules.values()})
    said = f"rank {_few(ranks)}, factor {_few(factors)} on B A; {lora.alpha_from}"
    notices: list[Notice] = []
    if lora.beside:
        why = "tensors of the model itself, which a LoRA in Diffusers' format does not repeat"
        notices.append(Notice("dropped", f"{lora.beside} tensors of {lora.path.name}", why))
    notices.append(Notice("chosen", "rank and alpha", said))
    if to == "sat":
        why = (
            "SAT's own loader wants the model's tensors in the same file; the `sat` backend's option"
            " `lora` takes this folder beside the model"
        )
        notices.append(Notice("dropped", "the model itself", why))
    return notices


def _few(values: list[int] | list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
