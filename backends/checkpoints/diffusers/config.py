"""A Diffusers pipeline's JSON configurations, read as SAT settings and written from them.

Three kinds of keys: those that SAT's YAML states too (`stated_settings`), those that SAT's code fixes
(`config_keys.fixed_keys`), and those that change nothing in this model (`_free`), for which the
published value is written unless an earlier configuration is at hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from backends.checkpoints.config_keys import (
    CONFIG_FILES,
    INDEX,
    SCHEDULE_SETTINGS,
    SCHEDULER,
    SCHEDULERS,
    TRANSFORMER,
    TRANSFORMER_SETTINGS,
    VAE,
    VAE_SETTINGS,
    fixed_keys,
    from_diffusers,
    to_diffusers,
)
from backends.checkpoints.sat.config import (
    GuidanceConfig,
    ModelConfig,
    SamplerConfig,
    SamplerKind,
    ScheduleConfig,
    TextConfig,
    TransformerConfig,
    VaeConfig,
)
from backends.checkpoints.sections import Section
from backends.checkpoints.trust import parse_mapping
from backends.errors import Unsupported


def read_configs(texts: Mapping[str, str], where: str) -> ModelConfig:
    """SAT's settings of the pipeline whose configuration files have these texts.

    `where` names the folder in errors. What a Diffusers folder does not say is taken from CogVideo's
    published YAML: 50 steps with dynamic guidance 6. Raises `CheckpointError` for a damaged file,
    `Unsupported` where SAT has no such model.
    """
    files = {name: parse_mapping(texts[name], f"{where}/{name}") for name in CONFIG_FILES}
    ratio = files[VAE].get("temporal_compression_ratio")
    if isinstance(ratio, float) and ratio.is_integer():  # a float by Diffusers' signature
        files[VAE]["temporal_compression_ratio"] = int(ratio)
    sections = {name: Section(values, f"{where}/{name}") for name, values in files.items()}
    transformer = _transformer(sections[TRANSFORMER])
    for file, key, expected, default in fixed_keys(
        transformer.patch_size_t, transformer.takes_image
    ):
        value = files[file].get(key, default)
        if value != expected:
            raise Unsupported(
                f"{where}/{file}: {key} is {value!r}; SAT's code for this kind of model fixes"
                f" {expected!r}, so this pipeline has no SAT form"
            )
    schedule, kind = _schedule(sections[SCHEDULER])
    return ModelConfig(
        scale_factor=sections[VAE].positive_real("scaling_factor"),
        transformer=transformer,
        vae=_vae(sections[VAE]),
        text=TextConfig("t5-v1_1-xxl", transformer.text_length),
        denoiser_schedule=schedule,
        sampler=SamplerConfig(kind, 50, schedule, GuidanceConfig(True, 6.0, 5.0, 50)),
    )


def _transformer(values: Section) -> TransformerConfig:
    rotary = values.get("use_rotary_positional_embeddings", bool, False)
    # Diffusers takes 0 as none.
    has_ofs = values.has("ofs_embed_dim") and values.get("ofs_embed_dim", int) != 0
    spatial, temporal = (
        1.0 if rotary else values.positive_real(f"{axis}_interpolation_scale")
        for axis in ("spatial", "temporal")
    )
    heads = values.positive("num_attention_heads")
    config = TransformerConfig(
        **from_diffusers(TRANSFORMER_SETTINGS, values),
        hidden_size=heads * values.positive("attention_head_dim"),
        patch_size=values.positive("patch_size"),
        positions="rotary" if rotary else "sin_cos",
        interpolation=(temporal, spatial, spatial),
        patch_size_t=values.positive("patch_size_t") if values.has("patch_size_t") else None,
        ofs_embed_dim=values.positive("ofs_embed_dim") if has_ofs else None,
        learned_positions=values.get("use_learned_positional_embeddings", bool, False),
    )
    config.check(values.where)
    return config


def _vae(values: Section) -> VaeConfig:
    widths = values.multipliers("block_out_channels")
    if any(width % widths[0] for width in widths):
        raise Unsupported(
            f"{values.where}: block_out_channels {list(widths)} are not multiples of the first one"
        )
    for key in ("down_block_types", "up_block_types"):
        kind = f"CogVideoX{key.split('_')[0].title()}Block3D"
        if (found := values.get(key, list)) != [kind] * len(widths):
            raise Unsupported(f"{values.where}: {key} is {found}; SAT has {len(widths)} x {kind}")
    config = VaeConfig(
        **from_diffusers(VAE_SETTINGS, values),
        ch=widths[0],
        ch_mult=tuple(width // widths[0] for width in widths),
    )
    values.require("out_channels", config.image_channels, None)
    return config


def _schedule(values: Section) -> tuple[ScheduleConfig, SamplerKind]:
    name = values.get("_class_name", str)
    if name not in SCHEDULERS:
        raise Unsupported(
            f"{values.where}: SAT has no sampler like {name}; it has {', '.join(SCHEDULERS)}"
        )
    schedule = ScheduleConfig(**from_diffusers(SCHEDULE_SETTINGS, values))
    schedule.check(values.where)
    return schedule, SCHEDULERS[name]


def write_configs(
    config: ModelConfig, base: Mapping[str, str] | None, tokenizer_class: str
) -> dict[str, str]:
    """Texts of the four configuration files of the pipeline that `config` describes.

    `base` are an earlier pipeline's texts: kept to the byte if they still say the same as `config`,
    otherwise overridden key by key. `tokenizer_class` is transformers' for the folder's files. Raises
    `Unsupported` where Diffusers has no such model.
    """
    _refuse(config)
    stated = stated_settings(config)
    if base is not None:
        if stated_settings(read_configs(base, "earlier configuration")) == stated:
            return dict(base)
        start = {name: parse_mapping(base[name], name) for name in CONFIG_FILES}
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
            **to_diffusers(TRANSFORMER_SETTINGS, transformer),
            "attention_head_dim": transformer.head_size,
            "patch_size": transformer.patch_size,
            "patch_size_t": transformer.patch_size_t,
            "ofs_embed_dim": transformer.ofs_embed_dim,
            "use_learned_positional_embeddings": transformer.learned_positions,
            **positions,
        },
        VAE: {
            **to_diffusers(VAE_SETTINGS, vae),
            "out_channels": vae.image_channels,
            "down_block_types": ["CogVideoXDownBlock3D"] * len(widths),
            "up_block_types": ["CogVideoXUpBlock3D"] * len(widths),
            "block_out_channels": widths,
            "scaling_factor": config.scale_factor,
        },
        SCHEDULER: {"_class_name": scheduler, **to_diffusers(SCHEDULE_SETTINGS, schedule)},
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
