"""A Diffusers pipeline's JSON configurations, written from SAT settings.

Three kinds of keys: those that SAT's YAML states too (`stated_settings`), those that SAT's code fixes
(`diffusers_keys.fixed_keys`), and those that change nothing in this model (`_free`), for which the
published value is written unless an earlier configuration is at hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from backends.checkpoints.diffusers.config import read_configs
from backends.checkpoints.diffusers.keys import (
    CONFIG_FILES,
    INDEX,
    SCHEDULER,
    SCHEDULERS,
    TRANSFORMER,
    VAE,
    fixed_keys,
    parse,
)
from backends.checkpoints.sat.config import ModelConfig
from backends.errors import Unsupported


def write_configs(
    config: ModelConfig, base: Mapping[str, str] | None, tokenizer_class: str
) -> dict[str, str]:
    """Texts of the four configuration files of the pipeline that `config` describes.

    `base` are an earlier pipeline's texts: kept to the byte if they still say the same as `config`,
    otherwise overridden key by key. Raises `Unsupported` where Diffusers has no such model.
    """
    _refuse(config)
    stated = stated_settings(config)
    if base is not None:
        if stated_settings(read_configs(base, "earlier configuration")) == stated:
            return dict(base)
        start = {name: parse(base[name], name) for name in CONFIG_FILES}
    else:
        start = _free(config, tokenizer_class)
        transformer = config.transformer
        for file, key, value, _ in fixed_keys(transformer.patch_size_t, transformer.takes_image):
            start[file][key] = value
    return {
        name: json.dumps({**start[name], **stated[name]}, indent=2) + "\n" for name in CONFIG_FILES
    }


def _refuse(config: ModelConfig) -> None:
    transformer, schedule = config.transformer, config.sampler.schedule
    if config.denoiser_schedule != schedule:
        raise Unsupported(
            f"the YAML gives the denoiser one schedule ({config.denoiser_schedule}) and the sampler"
            f" another ({schedule}); Diffusers has one for both. Make them equal"
        )
    if schedule.keep_start or schedule.post_shift:
        raise Unsupported("keep_start and post_shift of the schedule have no Diffusers form")
    if not (transformer.qk_norm and transformer.elementwise_affine):
        raise Unsupported("Diffusers' transformer has query/key norms, and affine norms, always")
    if transformer.interpolation[1] != transformer.interpolation[2]:
        raise Unsupported(
            f"positions are divided by {transformer.interpolation} (time, height, width); Diffusers"
            " has one divisor for height and width"
        )


def stated_settings(config: ModelConfig) -> dict[str, dict[str, Any]]:
    """What the YAML says, in Diffusers' words."""
    transformer, vae, schedule = config.transformer, config.vae, config.sampler.schedule
    widths = [vae.ch * multiplier for multiplier in vae.ch_mult]
    positions: dict[str, Any] = {
        "use_rotary_positional_embeddings": transformer.positions == "rotary"
    }
    if transformer.positions == "sin_cos":
        positions["spatial_interpolation_scale"] = transformer.interpolation[1]
        positions["temporal_interpolation_scale"] = transformer.interpolation[0]
    scheduler = {kind: name for name, kind in SCHEDULERS.items()}[config.sampler.kind]
    return {
        INDEX: {"scheduler": ["diffusers", scheduler]},
        TRANSFORMER: {
            "num_attention_heads": transformer.num_attention_heads,
            "attention_head_dim": transformer.head_size,
            "in_channels": transformer.in_channels,
            "out_channels": transformer.out_channels,
            "time_embed_dim": transformer.time_embed_dim,
            "text_embed_dim": transformer.text_hidden_size,
            "num_layers": transformer.num_layers,
            "sample_width": transformer.latent_width,
            "sample_height": transformer.latent_height,
            "sample_frames": transformer.num_frames,
            "patch_size": transformer.patch_size,
            "temporal_compression_ratio": transformer.time_compressed_rate,
            "max_text_seq_length": transformer.text_length,
            "norm_eps": transformer.layernorm_epsilon,
            "patch_size_t": transformer.patch_size_t,
            "ofs_embed_dim": transformer.ofs_embed_dim,
            "use_learned_positional_embeddings": transformer.learned_positions,
            **positions,
        },
        VAE: {
            "in_channels": vae.image_channels,
            "out_channels": vae.image_channels,
            "down_block_types": ["CogVideoXDownBlock3D"] * len(widths),
            "up_block_types": ["CogVideoXUpBlock3D"] * len(widths),
            "block_out_channels": widths,
            "latent_channels": vae.z_channels,
            "layers_per_block": vae.num_res_blocks,
            "temporal_compression_ratio": vae.temporal_compress_times,
            "scaling_factor": config.scale_factor,
        },
        SCHEDULER: {
            "_class_name": scheduler,
            "num_train_timesteps": schedule.num_timesteps,
            "beta_start": schedule.linear_start,
            "beta_end": schedule.linear_end,
            "snr_shift_scale": schedule.shift_scale,
        },
    }


def _free(config: ModelConfig, tokenizer_class: str) -> dict[str, dict[str, Any]]:
    """Keys that neither the YAML nor SAT's code decides.

    The rotary model reads no interpolation scale. The VAE's sample size decides the tile size only;
    it is the size that the transformer's latents decode to, and for 1.5, which has no size of its
    own, that of every published VAE. 1.5 reads no `patch_bias`, and without an image no
    `invert_scale_latents` (`fixed_keys`, which has the last word).
    """
    transformer, pixels = config.transformer, config.vae.spatial_compression
    is_15 = transformer.patch_size_t is not None
    size = (transformer.latent_height * pixels, transformer.latent_width * pixels)
    return {
        INDEX: {
            "text_encoder": ["transformers", "T5EncoderModel"],
            "tokenizer": ["transformers", tokenizer_class],
            "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
            "vae": ["diffusers", "AutoencoderKLCogVideoX"],
        },
        TRANSFORMER: {
            "_class_name": "CogVideoXTransformer3DModel",
            "spatial_interpolation_scale": 1.875,
            "temporal_interpolation_scale": 1.0,
            "patch_bias": not is_15,
        },
        VAE: {
            "_class_name": "AutoencoderKLCogVideoX",
            "force_upcast": True,
            "invert_scale_latents": is_15,
            "sample_height": 480 if is_15 else size[0],
            "sample_width": 720 if is_15 else size[1],
        },
        SCHEDULER: {"clip_sample_range": 1.0, "sample_max_value": 1.0},
    }
