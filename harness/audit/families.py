"""The published CogVideoX families, recognised from a model's own settings, and their facts.

Facts from THUDM/CogVideo (README, sat/configs) and the published `config.json` files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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

TRAINED = {
    "scheduler.prediction_type": "v_prediction",
    "scheduler.rescale_betas_zero_snr": True,
    "scheduler.timestep_spacing": "trailing",
}
"""How every CogVideoX model was trained, or must be sampled because of it."""


def recognise(settings: Mapping[str, Any]) -> Family | None:
    """The family of a model with these canonical settings; None if they do not say.

    1.5 has patches in time, 5B rotary positions, 2B neither.
    """
    rotary = settings.get("transformer.use_rotary_positional_embeddings")
    if settings.get("transformer.patch_size_t") is not None:
        return FIVE_B_1_5
    if rotary is None:
        return None
    return FIVE_B if rotary else TWO_B


def is_full_size(settings: Mapping[str, Any]) -> bool:
    """Whether the model is of a published size, for which frame counts and lengths are known."""
    heads = settings.get("transformer.num_attention_heads") or 0
    width = settings.get("transformer.attention_head_dim") or 0
    return heads * width >= _FULL_SIZE


def by_hub_id(model: str) -> Family | None:
    """The family that a hub id or folder name says: `zai-org/CogVideoX1.5-5B-I2V`."""
    name = model.lower().replace("_", "-")
    if "cogvideox" not in name:
        return None
    if "1.5" in name:
        return FIVE_B_1_5
    return TWO_B if "-2b" in name else FIVE_B if "-5b" in name else None
