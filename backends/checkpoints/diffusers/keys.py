"""Diffusers' configuration files of a CogVideoX pipeline, and the keys that SAT's code fixes."""

from __future__ import annotations

import json
from typing import Any

from backends.checkpoints.sat.config import SamplerKind
from backends.errors import CheckpointError

INDEX = "model_index.json"
TRANSFORMER = "transformer/config.json"
VAE = "vae/config.json"
SCHEDULER = "scheduler/scheduler_config.json"
CONFIG_FILES = (INDEX, TRANSFORMER, VAE, SCHEDULER)

SCHEDULERS: dict[str, SamplerKind] = {
    "CogVideoXDDIMScheduler": "ddim",
    "CogVideoXDPMScheduler": "dpm",
}

Fixed = tuple[str, str, Any, Any]
"""File, key, the value that SAT's code fixes, and what Diffusers takes if the key is absent."""

FIXED: tuple[Fixed, ...] = (
    (TRANSFORMER, "activation_fn", "gelu-approximate", "gelu-approximate"),
    (TRANSFORMER, "attention_bias", True, True),
    (TRANSFORMER, "dropout", 0.0, 0.0),
    (TRANSFORMER, "flip_sin_to_cos", True, True),
    (TRANSFORMER, "freq_shift", 0, 0),
    (TRANSFORMER, "norm_elementwise_affine", True, True),
    (TRANSFORMER, "timestep_activation_fn", "silu", "silu"),
    (VAE, "act_fn", "silu", "silu"),
    (VAE, "latents_mean", None, None),
    (VAE, "latents_std", None, None),
    (VAE, "norm_eps", 1e-6, 1e-6),
    (VAE, "norm_num_groups", 32, 32),
    (VAE, "shift_factor", None, None),
    (VAE, "use_post_quant_conv", False, False),
    (VAE, "use_quant_conv", False, False),
    (SCHEDULER, "beta_schedule", "scaled_linear", "scaled_linear"),
    (SCHEDULER, "clip_sample", False, True),
    (SCHEDULER, "prediction_type", "v_prediction", "epsilon"),
    (SCHEDULER, "rescale_betas_zero_snr", True, False),
    (SCHEDULER, "set_alpha_to_one", True, True),
    (SCHEDULER, "steps_offset", 0, 0),
    (SCHEDULER, "timestep_spacing", "trailing", "leading"),
    (SCHEDULER, "trained_betas", None, None),
)


def fixed_keys(patch_size_t: int | None, takes_image: bool) -> tuple[Fixed, ...]:
    """`FIXED`, and what the kind of model fixes.

    Diffusers reads `patch_bias` for 1.0 only (1.5's linear patch embedding has a bias on both sides,
    though the published configurations say false), and `invert_scale_latents` for image-to-video
    only: there 1.0 multiplies an image's latents by the scaling factor, 1.5 by its inverse.
    """
    kind = "CogVideoXImageToVideoPipeline" if takes_image else "CogVideoXPipeline"
    rows: list[Fixed] = [(INDEX, "_class_name", kind, None)]
    if patch_size_t is None:
        rows.append((TRANSFORMER, "patch_bias", True, True))
    if patch_size_t is None or takes_image:
        rows.append((VAE, "invert_scale_latents", patch_size_t is not None, False))
    return (*rows, *FIXED)


def parse(text: str, where: str) -> dict[str, Any]:
    """The JSON object in `text`, which came from `where`. Raises `CheckpointError`."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{where} is not JSON ({error}); fetch or export it again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{where} holds {type(values).__name__}, expected a JSON object")
    return values
