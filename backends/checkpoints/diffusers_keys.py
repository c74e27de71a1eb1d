"""Diffusers' configuration files of a CogVideoX pipeline, and the keys that SAT's code fixes."""

from __future__ import annotations

import json
from typing import Any

from backends.errors import CheckpointError
from backends.sat.config import SamplerKind

INDEX = "model_index.json"
TRANSFORMER = "transformer/config.json"
VAE = "vae/config.json"
SCHEDULER = "scheduler/scheduler_config.json"
CONFIG_FILES = (INDEX, TRANSFORMER, VAE, SCHEDULER)

SCHEDULERS: dict[str, SamplerKind] = {
    "CogVideoXDDIMScheduler": "ddim",
    "CogVideoXDPMScheduler": "dpm",
}

# What SAT's code fixes: file, key, the value it has there, and what Diffusers takes if the key is
# absent.
FIXED: tuple[tuple[str, str, Any, Any], ...] = (
    (INDEX, "_class_name", "CogVideoXPipeline", None),
    (TRANSFORMER, "activation_fn", "gelu-approximate", "gelu-approximate"),
    (TRANSFORMER, "attention_bias", True, True),
    (TRANSFORMER, "dropout", 0.0, 0.0),
    (TRANSFORMER, "flip_sin_to_cos", True, True),
    (TRANSFORMER, "freq_shift", 0, 0),
    (TRANSFORMER, "norm_elementwise_affine", True, True),
    (TRANSFORMER, "ofs_embed_dim", None, None),
    (TRANSFORMER, "patch_bias", True, True),
    (TRANSFORMER, "patch_size_t", None, None),
    (TRANSFORMER, "timestep_activation_fn", "silu", "silu"),
    (TRANSFORMER, "use_learned_positional_embeddings", False, False),
    (VAE, "act_fn", "silu", "silu"),
    (VAE, "invert_scale_latents", False, False),
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


def parse(text: str, where: str) -> dict[str, Any]:
    """The JSON object in `text`, which came from `where`. Raises `CheckpointError`."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{where} is not JSON ({error}); fetch or export it again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{where} holds {type(values).__name__}, expected a JSON object")
    return values
