"""A LoRA file of any origin opened for comparison: its layers, and the keys that fit no naming.

Like `source`, and unlike a loader, it takes what is there: whether a stack would apply a key is what
an audit finds out. Understood are Diffusers' and PEFT's names (`lora_A`, `lora_B`), the older
`lora_down`, `lora_up` with `alpha` tensors, and SAT's `matrix_A.i`, `matrix_B.i`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from safetensors import safe_open

from backends.checkpoints.lora.sat import rank_and_alpha
from backends.checkpoints.opened.files import tensors_of
from backends.checkpoints.sat.checkpoint import TRANSFORMER_PREFIX, model_states_path
from backends.checkpoints.tensors import Loader
from backends.errors import CheckpointError

_PREFIXES = ("transformer.", "base_model.model.", "diffusion_model.", "model.diffusion_model.")
_MATRIX = re.compile(
    r"(?P<layer>.+?)\.lora_?(?P<which>A|B|down|up|magnitude_vector)(?:\.\w+)?\.weight"
)
_ALPHA = re.compile(r"(?P<layer>.+)\.(?:lora_)?alpha")
_SAT = re.compile(
    r"transformer\.layers\.(\d+)\.attention\.(query_key_value|dense)\.matrix_([AB])\.(\d)"
)
_SAT_LAYERS = {"query_key_value": ("to_q", "to_k", "to_v"), "dense": ("to_out.0",)}
_HEADER = "lora_adapter_metadata"


@dataclass(frozen=True)
class LoraLayer:
    """The two matrices of one layer: `down` (rank, in), `up` (out, rank), read when called.

    `alpha` is None where the file does not say; `rank_stabilised` divides it by sqrt(rank).
    """

    down: Loader
    up: Loader
    rank: int
    alpha: float | None
    rank_stabilised: bool = False


@dataclass(frozen=True)
class LoraSource:
    """An opened LoRA. `layers` by canonical layer name without component
    (`transformer_blocks.0.attn1.to_q`); `strange` are keys of no layer; `prefixed` says whether every
    key has the prefix without which Diffusers ignores it. A SAT file has the
    alpha of the YAML beside it, and SAT's default 1 where there is none."""

    path: Path
    layers: Mapping[str, LoraLayer]
    strange: tuple[str, ...]
    prefixed: bool

    def scaling(self, layer: str) -> float:
        """The factor before `up @ down`: alpha / rank; without alpha 1, as if it were the rank."""
        found = self.layers[layer]
        if found.alpha is not None:
            return found.alpha / (math.sqrt(found.rank) if found.rank_stabilised else found.rank)
        return 1.0


@dataclass
class _Parts:
    down: Loader | None = None
    up: Loader | None = None
    alpha: float | None = None
    names: list[str] = field(default_factory=list[str])


def open_lora_source(path: Path) -> LoraSource | None:
    """The LoRA in a file or folder; None if there is another kind of checkpoint.

    Raises `CheckpointError` for a damaged file.
    """
    file = _file(path)
    if file is None:
        return None
    try:
        loaders = tensors_of(file)
    except CheckpointError:
        return None
    if not any(_MATRIX.fullmatch(n) or ".matrix_A." in n for n in loaders):
        return None
    sat = any(".matrix_A." in name for name in loaders)
    parts: dict[str, _Parts] = {}
    strange: list[str] = []
    stated_rank, stated_alpha, alpha_from = rank_and_alpha(path) if sat else (None, None, "")
    for name, load in loaders.items():
        if not _take(name, load, parts) and not (sat and "matrix_" not in name):
            strange.append(name)
    settings = _header(file)
    layers: dict[str, LoraLayer] = {}
    for layer, part in parts.items():
        if part.down is None or part.up is None:
            strange += part.names
            continue
        rank = part.down().shape[0]
        if stated_rank is not None and rank != stated_rank:
            raise CheckpointError(
                f"{path}: rank {stated_rank} by its YAML ({alpha_from}), but {layer} has rank {rank};"
                " they come from different trainings"
            )
        said = stated_alpha if sat else _stated(layer, settings)
        alpha = part.alpha if part.alpha is not None else said
        layers[layer] = LoraLayer(part.down, part.up, rank, alpha, bool(settings.get("use_rslora")))
    prefixed = sat or all(name.startswith("transformer.") for name in loaders)
    return LoraSource(path, layers, tuple(strange), prefixed)


def _take(name: str, load: Loader, parts: dict[str, _Parts]) -> bool:
    """Put one tensor where it belongs; False if its name is of no known kind."""
    bare = _bare(name)
    if found := _SAT.fullmatch(bare):
        block, kind, which, index = found.groups()
        projections = _SAT_LAYERS[kind]
        if int(index) >= len(projections):
            return False
        layer = f"transformer_blocks.{block}.attn1.{projections[int(index)]}"
    elif found := _MATRIX.fullmatch(bare):
        layer, which = found["layer"], {"down": "A", "up": "B"}.get(found["which"], found["which"])
    elif found := _ALPHA.fullmatch(bare):
        parts.setdefault(found["layer"], _Parts()).alpha = float(load())
        return True
    else:
        return False
    part = parts.setdefault(layer, _Parts())
    part.names.append(name)
    if which == "A":
        part.down = load
    elif which == "B":
        part.up = load
    return which in ("A", "B")


def _bare(name: str) -> str:
    if name.startswith(TRANSFORMER_PREFIX):
        return name.removeprefix(TRANSFORMER_PREFIX)
    if _SAT.fullmatch(name):
        return name
    for prefix in (*_PREFIXES, *_PREFIXES):
        name = name.removeprefix(prefix)
    return name


def _file(path: Path) -> Path | None:
    if path.is_file():
        return path
    if (path / "latest").is_file():
        return model_states_path(path)
    if (path / "model_index.json").is_file() or (path / "config.json").is_file():
        return None
    found = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    return found[0] if len(found) == 1 else None


def _header(file: Path) -> dict[str, Any]:
    """PEFT's configuration in a safetensors header, keys without their prefix."""
    if file.suffix != ".safetensors":
        return {}
    with cast(Any, safe_open)(file, framework="pt") as opened:
        text = (opened.metadata() or {}).get(_HEADER)
    try:
        values = json.loads(text) if text else {}
    except ValueError:
        return {}
    return {str(key).removeprefix("transformer."): value for key, value in values.items()}


def _stated(layer: str, settings: Mapping[str, Any]) -> float | None:
    patterns: Mapping[str, Any] = settings.get("alpha_pattern") or {}
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return float(value)
    alpha = settings.get("lora_alpha")
    return None if alpha is None else float(alpha)
