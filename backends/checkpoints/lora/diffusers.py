"""Diffusers' LoRA files: safetensors whose header may hold PEFT's configuration.

Sources: `CogVideoXLoraLoaderMixin` and `PeftAdapterMixin.load_lora_adapter` (keys without the prefix
`transformer.` are ignored there with a log line at most), `write_lora_layers` (the header), PEFT's
`get_pattern_key` (how patterns name layers).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from backends.checkpoints.diffusers.weight_files import plain
from backends.checkpoints.lora.lora import PREFIX, A, B, Lora, LoraModule, listed, paired, rank_of
from backends.checkpoints.tensors import LazyTensors, Loader
from backends.errors import CheckpointError, Unsupported

HEADER = "lora_adapter_metadata"


def open_diffusers_lora(file: Path) -> Lora:
    """The LoRA in a safetensors file. Raises `CheckpointError`, `Unsupported`."""
    try:
        opened = cast(Any, safe_open)(file, framework="pt", device="cpu")
        names: list[str] = list(opened.keys())
        header: str | None = (opened.metadata() or {}).get(HEADER)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{file} cannot be read as safetensors ({error}); fetch or save it again"
        ) from error
    _check_names(names, file)
    tensors = LazyTensors({name: _getter(opened, name) for name in names})
    ranks = {m: rank_of(tensors, m, str(file)) for m in paired(names, str(file))}
    if header is None:
        modules = {name: LoraModule(rank, float(rank)) for name, rank in ranks.items()}
        source = "no metadata in the file: Diffusers takes alpha = rank, so the factor is 1"
    else:
        settings = _settings(header, file)
        modules = {name: _module(name, rank, settings, file) for name, rank in ranks.items()}
        source = f"{HEADER} in the file's header"
    texts = {} if header is None else {HEADER: header}
    return Lora(file, "diffusers", modules, tensors, source, texts)


def write_diffusers_lora(
    file: Path, tensors: Mapping[str, Tensor], modules: Mapping[str, LoraModule], kept: str | None
) -> None:
    """Write a LoRA as `save_lora_weights` does, with the header that keeps rank and alpha.

    `kept` is the header text of the file that the LoRA once came from; it is used while it still
    says the same.
    """
    header = kept if kept is not None and _still_true(kept, modules, file) else _header(modules)
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {name: plain(tensor) for name, tensor in tensors.items()}
    save_file(content, file, metadata={"format": "pt", HEADER: header})


def _getter(opened: Any, name: str) -> Loader:
    return lambda: cast(Tensor, opened.get_tensor(name))


def _check_names(names: list[str], file: Path) -> None:
    unknown = [n for n in names if not (n.startswith(PREFIX) and n.endswith((A, B)))]
    if not names:
        raise CheckpointError(f"{file} holds no tensors; expected a LoRA")
    if not unknown:
        return
    if any("lora_magnitude_vector" in n or "dora_scale" in n for n in unknown):
        raise Unsupported(f"{file} is a DoRA, which Diffusers does not run for CogVideoX")
    if any(n.endswith(".lora_B.bias") for n in unknown):
        raise Unsupported(f"{file} has LoRA biases ({listed(unknown)}), which SAT cannot hold")
    if not any(n.startswith(PREFIX) for n in names) and any(n.endswith((A, B)) for n in names):
        raise CheckpointError(
            f"{file}: none of {len(names)} keys begins with `{PREFIX}`, e.g. {listed(names)}."
            " Diffusers would load nothing and say so in its log only. CogVideo's"
            " export_sat_lora_weight.py writes such files, and without alpha: convert the SAT"
            " checkpoint with `parity convert` instead, or rename the keys"
        )
    raise CheckpointError(
        f"{file}: {len(unknown)} of {len(names)} keys are not LoRA matrices of the transformer:"
        f" {listed(unknown)}; expected `{PREFIX}<layer>{A}` and `{B}`. Remove or rename them"
    )


def _settings(header: str, file: Path) -> dict[str, Any]:
    try:
        values = json.loads(header)
        found = {k.removeprefix(PREFIX): v for k, v in values.items() if k.startswith(PREFIX)}
        found |= {"r": int(found["r"]), "lora_alpha": float(found["lora_alpha"])}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file}: {HEADER} in its header is no PEFT configuration of `{PREFIX}`"
            f" ({type(error).__name__}: {error}); save the LoRA again"
        ) from error
    for flag in ("use_dora", "lora_bias"):
        if found.get(flag):
            raise Unsupported(f"{file} was made with {flag}, which this harness does not map")
    return found


def _module(name: str, rank: int, settings: Mapping[str, Any], file: Path) -> LoraModule:
    layer = name.removeprefix(PREFIX)
    said = int(_by_pattern(layer, settings.get("rank_pattern"), settings["r"]))
    if said != rank:
        raise CheckpointError(
            f"{file}: its header says rank {said} for {name}, its tensors have rank {rank}; header"
            " and tensors come from different LoRAs"
        )
    alpha = float(_by_pattern(layer, settings.get("alpha_pattern"), settings["lora_alpha"]))
    return LoraModule(rank, alpha, bool(settings.get("use_rslora")))


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


def _still_true(kept: str, modules: Mapping[str, LoraModule], file: Path) -> bool:
    settings = _settings(kept, file)
    try:
        return all(_module(n, m.rank, settings, file) == m for n, m in modules.items())
    except CheckpointError:
        return False
