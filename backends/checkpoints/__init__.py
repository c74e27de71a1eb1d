"""CogVideoX checkpoints: SAT and Diffusers folders read, written, converted and compared.

The one mapping between the two is `mapping` (data) on `rules` (how data becomes renaming and
reshaping). `sat_folder` and `diffusers_folder` read and write, `conversion` puts them together.
Canonical means Diffusers' names and layouts, with the component first: `vae.decoder.conv_in...`.

Importing this package costs nothing: torch comes with the first name that is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backends.checkpoints.conversion import canonical_state, convert
    from backends.checkpoints.diffusers_keys import SCHEDULERS
    from backends.checkpoints.lora import Lora, LoraModule
    from backends.checkpoints.lora_opening import is_lora, open_lora
    from backends.checkpoints.mapping import to_canonical
    from backends.checkpoints.report import ComponentReport, ConversionReport, Notice
    from backends.checkpoints.scales import SCALE_BLOCK
    from backends.checkpoints.settings import model_settings
    from backends.checkpoints.source import Source, Stored
    from backends.checkpoints.source_lora import LoraSource, open_lora_source
    from backends.checkpoints.source_opening import open_source
    from backends.checkpoints.tensors import LazyTensors, digest, state_digest

_HOMES = {
    "canonical_state": "conversion",
    "convert": "conversion",
    "SCHEDULERS": "diffusers_keys",
    "Lora": "lora",
    "LoraModule": "lora",
    "is_lora": "lora_opening",
    "open_lora": "lora_opening",
    "to_canonical": "mapping",
    "ComponentReport": "report",
    "ConversionReport": "report",
    "Notice": "report",
    "SCALE_BLOCK": "scales",
    "model_settings": "settings",
    "LoraSource": "source_lora",
    "open_lora_source": "source_lora",
    "Source": "source",
    "Stored": "source",
    "open_source": "source_opening",
    "LazyTensors": "tensors",
    "digest": "tensors",
    "state_digest": "tensors",
}

__all__ = [
    "SCALE_BLOCK",
    "SCHEDULERS",
    "ComponentReport",
    "ConversionReport",
    "LazyTensors",
    "Lora",
    "LoraModule",
    "LoraSource",
    "Notice",
    "Source",
    "Stored",
    "canonical_state",
    "convert",
    "digest",
    "is_lora",
    "model_settings",
    "open_lora",
    "open_lora_source",
    "open_source",
    "state_digest",
    "to_canonical",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
