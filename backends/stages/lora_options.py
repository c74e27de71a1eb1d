"""What the backends' options `lora`, `lora_scale` and `lora_mode` mean, and how they are shown.

live    the low-rank branch runs beside each layer, as after `load_lora_weights` and in `LoraLinear`
fused   its product is added to the layer's weight once, as by `fuse_lora` and `merge_lora`

The factor in force is alpha / rank of the file times `lora_scale`. A LoRA that does not fit the
model in every layer is refused: no stack says so loudly.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any

from backends.base import Approximation
from backends.errors import CheckpointError, InvalidRequest
from backends.micro import checkpoint_path

if TYPE_CHECKING:
    from backends.checkpoints import Lora

LORA_MODES = ("live", "fused")

_log = logging.getLogger("parity")


def check_lora_option(name: str, value: object) -> bool:
    """Whether `name` is one of the three options. Raises `InvalidRequest` for a wrong value."""
    if name == "lora":
        if not (value is None or (isinstance(value, str) and value)):
            raise InvalidRequest(f"option lora={value!r}: expected a file, a folder or null")
    elif name == "lora_scale":
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
            raise InvalidRequest(f"option lora_scale={value!r}: expected a finite number")
    elif name == "lora_mode":
        if value not in LORA_MODES:
            raise InvalidRequest(
                f"option lora_mode={value!r}: expected one of {', '.join(LORA_MODES)}"
            )
    else:
        return False
    return True


def check_lora_options(lora: str | None, scale: float, mode: str) -> None:
    """Raise `InvalidRequest` for a `scale` or `mode` without a `lora`."""
    if lora is None and (scale != 1.0 or mode != "live"):
        raise InvalidRequest(
            f"lora_scale={scale}, lora_mode={mode} without a LoRA; name one in `lora` or leave them"
        )


def lora_approximations(options: Mapping[str, Any]) -> Mapping[str, Approximation]:
    """The scale of a LoRA, where there is one. Its file is content: another one is another model."""
    if options.get("lora") is None:
        return {}
    return {"lora_scale": Approximation(off=1.0)}


def open_fitting(lora: str, shapes: Mapping[str, tuple[int, ...]], model: str) -> Lora:
    """Open the LoRA `lora`, a path or a micro LoRA's name, and check that every layer of it fits.

    `shapes` are those of the weights under canonical names, `model` is the model's name. Raises
    `CheckpointError` naming the layers that the model does not have or that have another size.
    """
    from backends.checkpoints import open_lora
    from backends.checkpoints.lora.lora import listed

    opened = open_lora(checkpoint_path(lora))
    for names, what in zip(opened.misfits(shapes), ("not in", "of another size in"), strict=True):
        if names:
            raise CheckpointError(
                f"{opened.path}: {len(names)} of its {len(opened.modules)} layers are {what} {model}:"
                f" {listed(names)}; the LoRA was trained on another model"
            )
    _log.info("%s: %d layers, %s", opened.path, len(opened.modules), opened.alpha_from)
    return opened


def lora_settings(mode: str, layers: Mapping[str, tuple[int, float]]) -> dict[str, Any]:
    """The identity's settings of a LoRA in force: `layers` maps each to its rank and factor.

    `lora.rank` and `lora.scale` are one number where all layers agree, else a number for each.
    """
    ranks = {name: rank for name, (rank, _) in layers.items()}
    # Stacks multiply and divide in different orders, which moves the last bit.
    factors = {name: float(f"{factor:.12g}") for name, (_, factor) in layers.items()}
    return {
        "lora.mode": mode,
        "lora.layers": len(layers),
        "lora.rank": _common(ranks),
        "lora.scale": _common(factors),
    }


def _common(values: Mapping[str, Any]) -> Any:
    distinct = set(values.values())
    return distinct.pop() if len(distinct) == 1 else dict(sorted(values.items()))
