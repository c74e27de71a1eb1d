"""SAT's LoRA: `matrix_A.i` and `matrix_B.i` beside the layers that `LoraMixin` replaced.

A fine-tuned SAT checkpoint holds the whole model and the LoRA in one file. Rank and alpha are in the
training YAML (`lora_config`); alpha is 1 where nothing is said, so the factor is 1/rank.

Sources: `sat/model/finetune/lora2.py` (`LoraLinear`, `LoraMixin`: query, key, value are the three
parts of one projection), CogVideo's `tools/export_sat_lora_weight.py` (the same names).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from torch import Tensor

from backends.checkpoints.diffusers.weight_files import plain
from backends.checkpoints.lora.lora import PREFIX, A, B, LoraModule, listed
from backends.checkpoints.sat.checkpoint import TRANSFORMER_PREFIX
from backends.errors import CheckpointError, Unsupported

YAML_NAME = "training_config.yaml"
"""CogVideo writes the training configuration under this name beside the checkpoints."""
TARGET = "sat.model.finetune.lora2.LoraMixin"

LAYERS = {
    "to_q": ("query_key_value", 0),
    "to_k": ("query_key_value", 1),
    "to_v": ("query_key_value", 2),
    "to_out.0": ("dense", 0),
}
"""What SAT's mixin adapts in every attention: Diffusers' layer to SAT's layer and its part."""

_SAT_LAYERS = {place: layer for layer, place in LAYERS.items()}
_SAT_NAME = re.compile(
    r"transformer\.layers\.(\d+)\.attention\.(query_key_value|dense)\.matrix_([AB])\.(\d+)"
)
_CANONICAL = re.compile(
    r"transformer\.transformer_blocks\.(\d+)\.attn1\.(to_q|to_k|to_v|to_out\.0)"
    r"\.lora_([AB])\.weight"
)


def canonical_place(sat: str) -> tuple[str, str] | None:
    """Canonical layer and ending of SAT's LoRA tensor `sat` (without engine prefix), or None."""
    found = _SAT_NAME.fullmatch(sat)
    layer = _SAT_LAYERS.get((found[2], int(found[4]))) if found else None
    if found is None or layer is None:
        return None
    return f"{PREFIX}transformer_blocks.{found[1]}.attn1.{layer}", A if found[3] == "A" else B


def sat_name(canonical: str) -> str | None:
    """SAT's name of a canonical tensor; None for layers that SAT's mixin does not adapt."""
    found = _CANONICAL.fullmatch(canonical)
    if found is None:
        return None
    block, layer, matrix = found.groups()
    kind, part = LAYERS[layer]
    return f"transformer.layers.{block}.attention.{kind}.matrix_{matrix}.{part}"


def find_config(path: Path) -> Path | None:
    """The YAML with a `lora_config` beside the checkpoint, or beside its iteration's folder."""
    homes = [path] if path.is_dir() else [path.parent, path.parent.parent]
    found = [
        file
        for home in homes
        for file in sorted(home.glob("*.y*ml"))
        if "lora_config" in file.read_text(encoding="utf-8", errors="replace")
    ]
    named = [file for file in found if file.name == YAML_NAME]
    if len(found) > 1 and not named:
        raise CheckpointError(
            f"{homes[0]} has {len(found)} YAML files with a `lora_config`: {listed(map(str, found))};"
            " rank and alpha must come from one. Remove the others"
        )
    return (named or found or [None])[0]


def rank_and_alpha(config: Path | None) -> tuple[int | None, float, str]:
    """Rank (None where nothing is said) and alpha by the YAML `config`, and where they come from.

    Raises `CheckpointError`, `Unsupported` for a YAML that cannot be followed.
    """
    if config is None:
        return None, 1.0, "no YAML with a `lora_config` beside it: SAT's default alpha 1 is taken"
    try:
        found = list(_sections(yaml.safe_load(config.read_text(encoding="utf-8"))))
    except yaml.YAMLError as error:
        raise CheckpointError(f"{config} is not YAML: {error}; correct it") from error
    if len(found) != 1:
        raise CheckpointError(f"{config} has {len(found)} `lora_config` sections; expected one")
    target, params = found[0].get("target"), found[0].get("params") or {}
    if target != TARGET:
        raise Unsupported(f"{config}: LoRA of {target!r}; this harness reads {TARGET}")
    try:
        rank, alpha = int(params["r"]), float(params.get("lora_alpha", 1))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{config}: `lora_config.params` needs `r` and takes `lora_alpha`, both numbers"
            f" ({type(error).__name__}: {error}); correct it"
        ) from error
    said = "lora_alpha" if "lora_alpha" in params else "no lora_alpha, so SAT's default 1,"
    return rank, alpha, f"{said} in {config.name}"


def check_representable(modules: Mapping[str, LoraModule]) -> LoraModule:
    """The one rank and alpha of a LoRA that SAT's mixin can hold. Raises `Unsupported` if it can't.

    The mixin has one rank and alpha, and adapts query, key, value and output of a layer together.
    """
    others = [name for name in modules if sat_name(f"{name}.lora_A.weight") is None]
    if others:
        raise Unsupported(
            f"SAT's LoraMixin adapts attention's {', '.join(LAYERS)} only; this LoRA also has"
            f" {listed(others)}. Render it on SAT with lora_mode=fused, or keep it in Diffusers"
        )
    blocks = {name.rpartition(".attn1.")[0] for name in modules}
    missing = {f"{b}.attn1.{layer}" for b in blocks for layer in LAYERS} - set(modules)
    if missing:
        raise Unsupported(
            f"SAT's LoraMixin adapts query, key, value and output of a layer together; this LoRA"
            f" lacks {listed(missing)}"
        )
    kinds = set(modules.values())
    if len(kinds) != 1 or next(iter(kinds)).rank_stabilised:
        ranks, alphas = sorted({k.rank for k in kinds}), sorted({k.alpha for k in kinds})
        raise Unsupported(
            f"SAT's LoraMixin has one rank and one alpha, and the factor alpha / rank; this LoRA has"
            f" ranks {ranks}, alphas {alphas}"
        )
    return next(iter(kinds))


def write_sat_lora(
    folder: Path,
    tensors: Mapping[str, Tensor],
    modules: Mapping[str, LoraModule],
    iteration: str,
    yaml_file: tuple[str, str] | None,
) -> None:
    """Write the `tensors` and `modules` of a LoRA, by canonical names, into `folder` as SAT's checkpoint
    of `iteration`, with the YAML that keeps rank and alpha.

    `yaml_file` is name and text of the YAML that the LoRA once came with; it is used while it still
    says the same.
    """
    kind = check_representable(modules)
    module = {
        TRANSFORMER_PREFIX + str(sat_name(name)): plain(tensors[name]) for name in sorted(tensors)
    }
    (folder / iteration).mkdir(parents=True)
    torch.save({"module": module}, folder / iteration / "mp_rank_00_model_states.pt")
    (folder / "latest").write_text(iteration)
    name, text = yaml_file or (YAML_NAME, "")
    file = folder / name
    file.write_text(text, encoding="utf-8")
    if rank_and_alpha(file if text else None)[:2] != (kind.rank, kind.alpha):
        file.write_text(config_text(kind), encoding="utf-8")


def config_text(kind: LoraModule) -> str:
    """A YAML to be merged into CogVideo's model config: `--base model.yaml <this file>`."""
    alpha = int(kind.alpha) if kind.alpha.is_integer() else kind.alpha
    lora = {"target": TARGET, "params": {"r": kind.rank, "lora_alpha": alpha}}
    document = {"model": {"network_config": {"params": {"modules": {"lora_config": lora}}}}}
    return yaml.safe_dump(document, sort_keys=False)


def _sections(node: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(node, dict):
        return
    for key, value in cast(dict[str, Any], node).items():
        if key == "lora_config" and isinstance(value, dict):
            yield cast(dict[str, Any], value)
        else:
            yield from _sections(value)
