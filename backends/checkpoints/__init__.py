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
    from backends.checkpoints.config_keys import SCHEDULERS
    from backends.checkpoints.conversion import canonical_state, convert
    from backends.checkpoints.lora.lora import Lora, LoraModule
    from backends.checkpoints.lora.reader import is_lora, open_lora, read_lora
    from backends.checkpoints.mapping import to_canonical
    from backends.checkpoints.one_sided import sin_cos
    from backends.checkpoints.opened.opening import open_source
    from backends.checkpoints.opened.source import Source, Stored
    from backends.checkpoints.report import ComponentReport, ConversionReport, Notice
    from backends.checkpoints.scales import SCALE_BLOCK
    from backends.checkpoints.settings import model_settings
    from backends.checkpoints.tensors import LazyTensors, digest, state_digest

_HOMES = {
    "canonical_state": "conversion",
    "convert": "conversion",
    "SCHEDULERS": "config_keys",
    "Lora": "lora.lora",
    "LoraModule": "lora.lora",
    "is_lora": "lora.reader",
    "open_lora": "lora.reader",
    "to_canonical": "mapping",
    "sin_cos": "one_sided",
    "ComponentReport": "report",
    "ConversionReport": "report",
    "Notice": "report",
    "SCALE_BLOCK": "scales",
    "model_settings": "settings",
    "read_lora": "lora.reader",
    "Source": "opened.source",
    "Stored": "opened.source",
    "open_source": "opened.opening",
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
    "Notice",
    "Source",
    "Stored",
    "canonical_state",
    "convert",
    "digest",
    "is_lora",
    "model_settings",
    "open_lora",
    "open_source",
    "read_lora",
    "sin_cos",
    "state_digest",
    "to_canonical",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
