"""The published CogVideoX families, recognised from a model's own settings, and their facts.

Facts from THUDM/CogVideo (README, sat/configs) and the published `config.json` files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_TRANSFORMER = "CogVideoXTransformer3DModel"
_FULL_SIZE = 1024
"""Hidden size from which a model is one of the published ones and not a small likeness."""


@dataclass(frozen=True)
class Family:
    """What holds for every model of a family.

    `dtype` is the one its authors recommend; `frames` those it was trained for; `text_lengths` the
    numbers of text tokens; `sampler` and `dynamic` what its authors render with.
    """

    name: str
    scaling_factor: float
    snr_shift_scale: float
    dtype: str
    frames: tuple[int, ...]
    text_lengths: tuple[int, ...]
    sampler: str
    dynamic: bool


TWO_B = Family("CogVideoX-2B", 1.15258426, 3.0, "float16", (49,), (226,), "ddim", False)
FIVE_B = Family("CogVideoX-5B", 0.7, 1.0, "bfloat16", (49,), (226,), "dpm", True)
FIVE_B_1_5 = Family("CogVideoX1.5-5B", 0.7, 1.0, "bfloat16", (81, 161), (224, 226), "dpm", True)
FAMILIES = (TWO_B, FIVE_B, FIVE_B_1_5)

_WIDTHS = {TWO_B.name: 1920, FIVE_B.name: 3072}
"""Hidden sizes of the published models (heads times their width)."""

TRAINED = {
    "scheduler.prediction_type": "v_prediction",
    "scheduler.rescale_betas_zero_snr": True,
    "scheduler.timestep_spacing": "trailing",
}
"""How every CogVideoX model was trained, or must be sampled because of it."""


def is_cogvideox(settings: Mapping[str, Any]) -> bool:
    """Whether the transformer's class is CogVideoX's; without a transformer, any component's."""
    transformer = settings.get("transformer._class_name")
    if transformer is not None or any(key.startswith("transformer.") for key in settings):
        return transformer == _TRANSFORMER
    return any("CogVideoX" in str(v) for k, v in settings.items() if k.endswith("._class_name"))


def recognise(settings: Mapping[str, Any]) -> Family | None:
    """The family of a model with these canonical settings; None where that is not certain.

    1.5 has patches in time, 5B rotary positions, 2B neither. Rotary positions are off where a file
    does not say, so their absence alone makes no 2B: the width of a published model, or one of the
    two numbers in which the families differ, must not speak against it.
    """
    if settings.get("transformer._class_name") != _TRANSFORMER:
        return None
    if settings.get("transformer.patch_size_t") is not None:
        return FIVE_B_1_5
    rotary = settings.get("transformer.use_rotary_positional_embeddings")
    if rotary is None:
        return None
    found = FIVE_B if rotary else TWO_B
    if is_full_size(settings):
        return found if _width(settings) == _WIDTHS[found.name] else None
    return found if rotary or not _contradicted(settings, found) else None


def _contradicted(settings: Mapping[str, Any], family: Family) -> bool:
    """Whether the settings state numbers that families differ in, and none is this family's."""
    numbers = {
        "vae.scaling_factor": family.scaling_factor,
        "scheduler.snr_shift_scale": family.snr_shift_scale,
    }
    stated = [key for key in numbers if key in settings]
    return bool(stated) and all(settings[key] != numbers[key] for key in stated)


def _width(settings: Mapping[str, Any]) -> int:
    heads = settings.get("transformer.num_attention_heads")
    width = settings.get("transformer.attention_head_dim")
    return heads * width if isinstance(heads, int) and isinstance(width, int) else 0


def is_full_size(settings: Mapping[str, Any]) -> bool:
    """Whether the model is of a published size, for which frame counts and lengths are known."""
    return _width(settings) >= _FULL_SIZE


def by_hub_id(model: str) -> Family | None:
    """The family that a hub id or folder name says: `zai-org/CogVideoX1.5-5B-I2V`."""
    name = model.lower().replace("_", "-")
    if "cogvideox" not in name:
        return None
    if "1.5" in name:
        return FIVE_B_1_5
    return TWO_B if "-2b" in name else FIVE_B if "-5b" in name else None
