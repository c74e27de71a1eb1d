"""A LoRA on an opened `CogVideoXPipeline`, through the calls that users make.

`load_lora_weights`, `set_adapters`, `fuse_lora`, `unload_lora_weights`. What they leave behind is
then compared with the file, because Diffusers reports keys that match nothing in its log only.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backends.base import Identity
from backends.checkpoints import Lora
from backends.checkpoints.lora.diffusers import write_diffusers_lora
from backends.checkpoints.lora.lora import PREFIX, WEIGHT_NAME, A, B, listed
from backends.errors import CheckpointError, MissingPrerequisite
from backends.stages.lora_options import lora_settings, open_fitting

ADAPTER = "parity"


@dataclass(frozen=True)
class AttachedLora:
    """A LoRA in force; `fused` holds its layers' ranks and factors once they are in the weights."""

    fused: dict[str, tuple[int, float]] | None

    def shown_in(self, identity: Identity, transformer: nn.Module) -> Identity:
        """`identity` with canonical weight names and the settings of the LoRA as it is now."""
        mode = "live" if self.fused is None else "fused"
        layers = _in_force(transformer) if self.fused is None else self.fused
        return replace(
            identity,
            weights={_canonical(name): digest for name, digest in identity.weights.items()},
            configs=identity.configs | lora_settings(mode, layers),
        )


def check_peft() -> None:
    """Raise `MissingPrerequisite` where Diffusers cannot load a LoRA."""
    try:
        import_module("peft")
    except ImportError as error:
        raise MissingPrerequisite(
            "Diffusers loads LoRA with the package peft, which is not installed: pip install peft"
        ) from error


def attach_lora(pipe: Any, lora: str, scale: float, mode: str, model: str) -> AttachedLora:
    """Put the LoRA `lora` in force on `pipe`, before its weights are placed anywhere.

    `scale` and `mode` as in `stages.lora_options`; `model` names the model in errors.

    Raises `CheckpointError` for a LoRA that does not fit, or that Diffusers did not apply as its
    file says.
    """
    shapes = {PREFIX + n: tuple(p.shape) for n, p in pipe.transformer.named_parameters()}
    opened = open_fitting(lora, shapes, model)
    with tempfile.TemporaryDirectory(prefix="parity-lora-") as folder:
        file = opened.path
        if opened.format != "diffusers" or file.suffix != ".safetensors":
            file = Path(folder) / WEIGHT_NAME
            write_diffusers_lora(file, opened.tensors, opened.modules, None)
        try:
            pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=ADAPTER)
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"Diffusers does not load {opened.path}: {type(error).__name__}:"
                f" {str(error).splitlines()[0]}"
            ) from error
    _check_loaded(pipe.transformer, opened)
    pipe.set_adapters([ADAPTER], [scale])
    if mode == "live":
        return AttachedLora(None)
    layers = _in_force(pipe.transformer)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    return AttachedLora(layers)


def tuned_layers(transformer: nn.Module) -> dict[str, Any]:
    """The layers that carry our adapter, by canonical name."""
    return {
        PREFIX + name: module
        for name, module in transformer.named_modules()
        if ADAPTER in getattr(module, "lora_A", {})
    }


def _in_force(transformer: nn.Module) -> dict[str, tuple[int, float]]:
    """Rank and factor of each layer as its forward uses them; 0 for a switched-off adapter."""
    return {
        name: (int(module.r[ADAPTER]), float(module.scaling[ADAPTER]) if _active(module) else 0.0)
        for name, module in tuned_layers(transformer).items()
    }


def _active(module: Any) -> bool:
    return ADAPTER in module.active_adapters and not module.disable_adapters


def _check_loaded(transformer: nn.Module, lora: Lora) -> None:
    tuned = tuned_layers(transformer)
    if set(tuned) != set(lora.modules):
        odd = set(tuned) ^ set(lora.modules)
        raise CheckpointError(
            f"Diffusers applied {lora.path} to {len(tuned)} layers, the file has"
            f" {len(lora.modules)}; not the same: {listed(odd)}. Rename its keys to full layer names"
        )
    wrong: list[str] = []
    for name, module in tuned.items():
        for end, part in ((A, module.lora_A), (B, module.lora_B)):
            loaded = part[ADAPTER].weight
            if not torch.equal(loaded, lora.tensors[name + end].to(loaded)):
                wrong.append(name + end)
        came, said = float(module.scaling[ADAPTER]), lora.modules[name].scaling
        if abs(came - said) > 1e-9 * abs(said):
            wrong.append(f"{name} (factor {came:g}, the file says {said:g})")
    if wrong:
        raise CheckpointError(
            f"Diffusers loaded {lora.path}, but {len(wrong)} tensors or factors are not the file's:"
            f" {listed(wrong)}"
        )


def _canonical(name: str) -> str:
    """PEFT's name of a weight to the canonical one."""
    name = name.replace(".base_layer.", ".")
    return re.sub(r"\.(lora_[AB])\.[^.]+\.weight$", r".\1.weight", name)
