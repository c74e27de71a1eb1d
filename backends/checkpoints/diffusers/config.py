"""A Diffusers pipeline's JSON configurations, read as the SAT settings that say the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from backends.checkpoints.diffusers.keys import (
    CONFIG_FILES,
    SCHEDULER,
    SCHEDULERS,
    TRANSFORMER,
    VAE,
    fixed_keys,
    parse,
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
from backends.errors import CheckpointError, Unsupported


def read_configs(texts: Mapping[str, str], where: str) -> ModelConfig:
    """SAT's settings of the pipeline whose configuration files have these texts.

    What a Diffusers folder does not say is taken from CogVideo's published YAML: 50 steps with
    dynamic guidance 6. Raises `CheckpointError` for a damaged file, `Unsupported` where SAT has no
    such model.
    """
    files = {name: parse(texts[name], f"{where}/{name}") for name in CONFIG_FILES}
    transformer = _transformer(files[TRANSFORMER], f"{where}/{TRANSFORMER}")
    for file, key, expected, default in fixed_keys(
        transformer.patch_size_t, transformer.takes_image
    ):
        value = files[file].get(key, default)
        if value != expected:
            raise Unsupported(
                f"{where}/{file}: {key} is {value!r}; SAT's code for this kind of model fixes"
                f" {expected!r}, so this pipeline has no SAT form"
            )
    schedule, kind = _schedule(files[SCHEDULER], f"{where}/{SCHEDULER}")
    vae = files[VAE]
    return ModelConfig(
        scale_factor=_real(vae, "scaling_factor", f"{where}/{VAE}"),
        transformer=transformer,
        vae=_vae(vae, f"{where}/{VAE}"),
        text=TextConfig("t5-v1_1-xxl", transformer.text_length),
        denoiser_schedule=schedule,
        sampler=SamplerConfig(kind, 50, schedule, GuidanceConfig(True, 6.0, 5.0, 50)),
    )


def _whole(values: Mapping[str, Any], key: str, where: str) -> int:
    value = _need(values, key, where)
    if type(value) is not int or value < 1:
        raise _wrong(where, key, value, "an integer from 1")
    return value


def _real(values: Mapping[str, Any], key: str, where: str) -> float:
    """A positive number; a whole one stays an integer, as in the file."""
    value = _need(values, key, where)
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise _wrong(where, key, value, "a positive number")
    return value


def _flag(values: Mapping[str, Any], key: str, where: str) -> bool:
    value = values.get(key, False)
    if type(value) is not bool:
        raise _wrong(where, key, value, "true or false")
    return value


def _wrong(where: str, key: str, value: object, expected: str) -> CheckpointError:
    return CheckpointError(
        f"{where}: `{key}` is {value!r}; expected {expected}. Correct it, or export the pipeline again"
    )


def _need(values: Mapping[str, Any], key: str, where: str) -> Any:
    if values.get(key) is None:
        raise CheckpointError(f"{where}: key {key!r} is missing; export the pipeline again")
    return values[key]


def _transformer(values: Mapping[str, Any], where: str) -> TransformerConfig:
    rotary = _flag(values, "use_rotary_positional_embeddings", where)
    in_channels, out_channels = (
        _whole(values, "in_channels", where),
        _whole(values, "out_channels", where),
    )
    if in_channels not in (out_channels, 2 * out_channels):
        raise Unsupported(
            f"{where}: {in_channels} channels in and {out_channels} out; SAT has text-to-video models,"
            " with as many in as out, and image-to-video models, with twice as many"
        )
    patch_size_t = (
        None if values.get("patch_size_t") is None else _whole(values, "patch_size_t", where)
    )
    learned = _flag(values, "use_learned_positional_embeddings", where)
    # Diffusers takes 0 as none.
    absent = values.get("ofs_embed_dim") is None or values["ofs_embed_dim"] == 0
    ofs_embed_dim = None if absent else _whole(values, "ofs_embed_dim", where)
    if patch_size_t is not None and (learned or not rotary):
        raise Unsupported(
            f"{where}: patches in time need the rotary embedding alone; SAT has no other such model"
        )
    if (patch_size_t is None and ofs_embed_dim) or (learned and not rotary):
        raise Unsupported(
            f"{where}: a mixture of CogVideoX 1.0 and 1.5 (patch_size_t {patch_size_t},"
            f" ofs_embed_dim {ofs_embed_dim}), of which SAT has no model"
        )
    heads, head_size = (
        _whole(values, "num_attention_heads", where),
        _whole(values, "attention_head_dim", where),
    )
    spatial = 1.0 if rotary else float(_real(values, "spatial_interpolation_scale", where))
    temporal = 1.0 if rotary else float(_real(values, "temporal_interpolation_scale", where))
    return TransformerConfig(
        num_layers=_whole(values, "num_layers", where),
        hidden_size=heads * head_size,
        num_attention_heads=heads,
        time_embed_dim=_whole(values, "time_embed_dim", where),
        in_channels=in_channels,
        out_channels=out_channels,
        patch_size=_whole(values, "patch_size", where),
        num_frames=_whole(values, "sample_frames", where),
        time_compressed_rate=_whole(values, "temporal_compression_ratio", where),
        latent_height=_whole(values, "sample_height", where),
        latent_width=_whole(values, "sample_width", where),
        text_length=_whole(values, "max_text_seq_length", where),
        text_hidden_size=_whole(values, "text_embed_dim", where),
        positions="rotary" if rotary else "sin_cos",
        interpolation=(temporal, spatial, spatial),
        qk_norm=True,
        elementwise_affine=True,
        layernorm_epsilon=_real(values, "norm_eps", where),
        vocab_size=1,
        max_sequence_length=64,
        patch_size_t=patch_size_t,
        ofs_embed_dim=ofs_embed_dim,
        learned_positions=learned,
    )


def _vae(values: Mapping[str, Any], where: str) -> VaeConfig:
    widths: Any = _need(values, "block_out_channels", where)
    if not isinstance(widths, list) or not widths or not all(
        type(width) is int and width > 0 for width in cast("list[object]", widths)
    ):  # fmt: skip
        raise _wrong(where, "block_out_channels", widths, "a list of integers from 1")
    if any(width % widths[0] for width in widths):
        raise Unsupported(
            f"{where}: block_out_channels {widths} are not multiples of the first one"
        )
    for key in ("down_block_types", "up_block_types"):
        kind = f"CogVideoX{key.split('_')[0].title()}Block3D"
        if _need(values, key, where) != [kind] * len(widths):
            raise Unsupported(f"{where}: {key} is {values[key]}; SAT has {len(widths)} x {kind}")
    channels = _whole(values, "in_channels", where)
    if channels != _whole(values, "out_channels", where):
        raise Unsupported(f"{where}: {channels} channels in, {values['out_channels']} out")
    return VaeConfig(
        ch=widths[0],
        ch_mult=tuple(width // widths[0] for width in widths),
        num_res_blocks=_whole(values, "layers_per_block", where),
        z_channels=_whole(values, "latent_channels", where),
        image_channels=channels,
        temporal_compress_times=int(_real(values, "temporal_compression_ratio", where)),
    )


def _schedule(values: Mapping[str, Any], where: str) -> tuple[ScheduleConfig, SamplerKind]:
    name = _need(values, "_class_name", where)
    if name not in SCHEDULERS:
        raise Unsupported(
            f"{where}: SAT has no sampler like {name}; it has {', '.join(SCHEDULERS)}"
        )
    schedule = ScheduleConfig(
        linear_start=_real(values, "beta_start", where),
        linear_end=_real(values, "beta_end", where),
        num_timesteps=_whole(values, "num_train_timesteps", where),
        shift_scale=float(_real(values, "snr_shift_scale", where)),
        keep_start=False,
        post_shift=False,
    )
    if not schedule.linear_start < schedule.linear_end < 1:
        raise _wrong(
            where, "beta_end", schedule.linear_end, "more than `beta_start`, and less than 1"
        )
    return schedule, SCHEDULERS[name]
