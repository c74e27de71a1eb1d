"""Diffusers' LoRA files: safetensors whose header may hold PEFT's configuration.

Sources: `write_lora_layers` (the header), PEFT's `get_pattern_key` (how patterns name layers).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from backends.checkpoints.diffusers.weight_files import plain
from backends.checkpoints.lora.lora import HEADER, PREFIX, LoraModule
from backends.errors import CheckpointError

UNMAPPED = ("use_dora", "lora_bias")
"""PEFT's settings that neither stack runs for CogVideoX."""


def header_text(file: Path) -> str | None:
    """PEFT's configuration in a readable LoRA file; None for torch files, which have no header."""
    if file.suffix != ".safetensors":
        return None
    with cast(Any, safe_open)(file, framework="pt") as opened:
        return (opened.metadata() or {}).get(HEADER)


def peft_settings(header: str, file: Path) -> dict[str, Any]:
    """PEFT's settings of the transformer. Raises `CheckpointError` where rank or alpha is not said."""
    try:
        values = json.loads(header)
        found = {k.removeprefix(PREFIX): v for k, v in values.items() if k.startswith(PREFIX)}
        return found | {"r": int(found["r"]), "lora_alpha": float(found["lora_alpha"])}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file}: {HEADER} in its header is no PEFT configuration of `{PREFIX}`"
            f" ({type(error).__name__}: {error}); save the LoRA again"
        ) from error


def stated_module(name: str, settings: Mapping[str, Any]) -> LoraModule:
    """The rank and alpha that `settings` give the layer of canonical `name`."""
    layer = name.removeprefix(PREFIX)
    rank = _by_pattern(layer, settings.get("rank_pattern"), settings["r"])
    alpha = _by_pattern(layer, settings.get("alpha_pattern"), settings["lora_alpha"])
    return LoraModule(int(rank), float(alpha), bool(settings.get("use_rslora")))


def write_diffusers_lora(
    file: Path, tensors: Mapping[str, Tensor], modules: Mapping[str, LoraModule], kept: str | None
) -> None:
    """Write the `tensors` and `modules` of a LoRA, by canonical names, to `file` as `save_lora_weights`
    does, with the header that keeps rank and alpha.

    `kept` is the header text of the file that the LoRA once came from; it is used while it still
    says the same.
    """
    settings = peft_settings(kept, file) if kept is not None else None
    true = settings is not None and all(stated_module(n, settings) == m for n, m in modules.items())
    header = kept if kept is not None and true else _header(modules)
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {name: plain(tensor) for name, tensor in tensors.items()}
    save_file(content, file, metadata={"format": "pt", HEADER: header})


def _by_pattern(layer: str, patterns: Mapping[str, Any] | None, default: Any) -> Any:
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return value
    return default


def _header(modules: Mapping[str, LoraModule]) -> str:
    """PEFT's configuration: the most common rank and alpha, and patterns for the other layers."""
    layers = {name.removeprefix(PREFIX): module for name, module in modules.items()}
    rank = Counter(m.rank for m in layers.values()).most_common()[0][0]
    alpha = Counter(m.alpha for m in layers.values()).most_common()[0][0]

    def exact(layer: str) -> str:
        return f"^{re.escape(layer)}"

    settings = {
        "r": rank,
        "lora_alpha": _number(alpha),
        "rank_pattern": {exact(n): m.rank for n, m in layers.items() if m.rank != rank},
        "alpha_pattern": {
            exact(n): _number(m.alpha) for n, m in layers.items() if m.alpha != alpha
        },
        "target_modules": sorted(layers),
        "use_rslora": any(m.rank_stabilised for m in layers.values()),
    }
    prefixed = {PREFIX + key: value for key, value in settings.items()}
    return json.dumps(prefixed, indent=2, sort_keys=True)


def _number(value: float) -> float | int:
    return int(value) if value.is_integer() else value
