"""CogVideo's YAML configs (`sat/configs/*.yaml`) read into typed settings.

A `target:` names a class of CogVideo. It is looked up in the tables here and never imported, so a
config from anywhere can be read. What this backend cannot render is refused by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from backends.checkpoints.config_keys import (
    DIFFUSION,
    GUIDERS,
    POSITIONS,
    SAMPLERS,
    SCHEDULE_SETTINGS,
    TRANSFORMER_SETTINGS,
    VAE_SETTINGS,
    from_sat,
)
from backends.checkpoints.sat.config import (
    GuidanceConfig,
    ModelConfig,
    SamplerConfig,
    ScheduleConfig,
    TextConfig,
    TransformerConfig,
    VaeConfig,
)
from backends.checkpoints.sections import Section, only
from backends.errors import CheckpointError, Unsupported


def read_config(path: Path) -> ModelConfig:
    """Read the `model` section of a CogVideo YAML file.

    Raises `CheckpointError` when the file is damaged or incomplete, and `Unsupported` when it
    describes a model that this backend does not render.
    """
    model = Section.from_file(path).section("model")
    denoiser = only(model.section("denoiser_config"), f"{DIFFUSION}.denoiser.DiscreteDenoiser")
    denoiser.require("num_idx", 1000, None)
    denoiser.require("quantize_c_noise", False, True)
    only(denoiser.section("scaling_config"), f"{DIFFUSION}.denoiser_scaling.VideoScaling").done()
    text = _text(model.section("conditioner_config"))
    transformer = _transformer(model.section("network_config"))
    if text.max_length != transformer.text_length:
        raise CheckpointError(
            f"{path}: T5's max_length is {text.max_length} but the transformer's text_length is"
            f" {transformer.text_length}; they must be equal. Correct the file"
        )
    return ModelConfig(
        scale_factor=model.positive_real("scale_factor", 1.0),
        transformer=transformer,
        vae=_vae(model.section("first_stage_config")),
        text=text,
        denoiser_schedule=_schedule(denoiser.section("discretization_config")),
        sampler=_sampler(model.section("sampler_config")),
    )


def _transformer(section: Section) -> TransformerConfig:
    params = only(section, "dit_video_concat.DiffusionTransformer")
    patch_size_t, patch_size = _patch_size(params)
    args = params.section("transformer_args")
    args.require("layernorm_order", "pre", "pre")
    args.require("is_decoder", False, False)
    args.require("model_parallel_size", 1, 1)
    args.ignore("checkpoint_activations", "skip_init")
    modules = params.section("modules")
    if modules.has("lora_config"):
        raise Unsupported("the config adds LoRA weights; merge them into the checkpoint first")
    positions = modules.section("pos_embed_config")
    kind = positions.target(POSITIONS)
    place = positions.section("params")
    place.require("rot_v", False, False)
    place.ignore("hidden_size_head")
    patch = only(modules.section("patch_embed_config"), "dit_video_concat.ImagePatchEmbeddingMixin")
    layers = only(modules.section("adaln_layer_config"), "dit_video_concat.AdaLNMixin")
    only(modules.section("final_layer_config"), "dit_video_concat.FinalLayerMixin").done()
    for flag in ("use_SwiGLU", "use_RMSNorm"):
        params.require(flag, False, False)
    params.require("num_classes", None, None)
    params.require("input_time", "adaln", "adaln")
    params.ignore("adm_in_channels", "dtype", "ofs_embed_dim")
    hidden_size, heads = params.positive("hidden_size"), params.positive("num_attention_heads")
    if hidden_size % heads:
        raise CheckpointError(
            f"{params.where}: hidden_size {hidden_size} is no multiple of num_attention_heads {heads};"
            " correct the file"
        )
    sections = {
        "": params,
        "transformer_args": args,
        "pos_embed_config": place,
        "patch_embed_config": patch,
        "adaln_layer_config": layers,
    }
    time, height, width = (
        place.positive_real(f"{axis}_interpolation", 1.0) for axis in ("time", "height", "width")
    )
    config = TransformerConfig(
        **from_sat(TRANSFORMER_SETTINGS, sections, time_embed_dim=hidden_size),
        hidden_size=hidden_size,
        patch_size=patch_size,
        positions=kind,
        interpolation=(time, height, width),
        patch_size_t=patch_size_t,
        ofs_embed_dim=params.positive("ofs_embed_dim") if params.has("ofs_embed_dim") else None,
        learned_positions=place.get("learnable_pos_embed", bool, False),
    )
    config.check(params.where)
    for part in (*sections.values(), modules):
        part.done()
    return config


def _patch_size(params: Section) -> tuple[int | None, int]:
    """Size along time, None for 1.0's 2-D patches, and along height and width."""
    value = params.get("patch_size", object)
    if isinstance(value, int):
        return None, params.positive("patch_size")
    sizes = cast(list[object], params.get("patch_size", list))
    match sizes:
        case [int(time), int(height), int(width)] if height == width and min(time, height) > 0:
            return time, height
        case _:
            raise Unsupported(
                f"patch_size is {sizes}; the `sat` backend renders square patches, such as [2, 2, 2]"
            )


def _text(section: Section) -> TextConfig:
    models = only(section, "sgm.modules.GeneralConditioner").sections("emb_models")
    if len(models) != 1:
        raise Unsupported(f"the config has {len(models)} conditioners; expected one, T5 on `txt`")
    models[0].require("input_key", "txt", None)
    params = only(models[0], "sgm.modules.encoders.modules.FrozenT5Embedder")
    return TextConfig(params.get("model_dir", str), params.positive("max_length", 77))


def _vae(section: Section) -> VaeConfig:
    params = only(section, "vae_modules.autoencoder.VideoAutoencoderInferenceWrapper")
    sides = [
        _vae_side(only(params.section(f"{side}_config"), f"vae_modules.cp_enc_dec.{kind}"))
        for side, kind in (
            ("encoder", "ContextParallelEncoder3D"),
            ("decoder", "ContextParallelDecoder3D"),
        )
    ]
    only(
        params.section("regularizer_config"),
        "vae_modules.regularizers.DiagonalGaussianRegularizer",
    ).done()
    if sides[0] != sides[1]:
        raise Unsupported(f"encoder and decoder of the VAE differ: {sides[0]} and {sides[1]}")
    return sides[0]


def _vae_side(params: Section) -> VaeConfig:
    params.require("double_z", True, True)
    params.require("attn_resolutions", [], [])
    # Dropout is off when rendering; `gather_norm` and `resolution` do nothing on one device.
    params.ignore("dropout", "gather_norm", "resolution")
    config = VaeConfig(
        **from_sat(VAE_SETTINGS, {"": params}),
        ch=params.positive("ch"),
        ch_mult=params.multipliers("ch_mult"),
    )
    params.require("out_ch", config.image_channels, None)
    params.done()
    return config


def _schedule(section: Section) -> ScheduleConfig:
    params = only(section, f"{DIFFUSION}.discretizer.ZeroSNRDDPMDiscretization")
    config = ScheduleConfig(**from_sat(SCHEDULE_SETTINGS, {"": params}))
    config.check(params.where)
    params.done()
    return config


def _sampler(section: Section) -> SamplerConfig:
    kind = section.target(SAMPLERS)
    params = section.section("params")
    params.require("fixed_frames", 0, 0)
    steps = params.positive("num_steps")
    guider = params.section("guider_config")
    dynamic = guider.target(GUIDERS)
    values = guider.section("params")
    guidance = GuidanceConfig(
        dynamic=dynamic,
        scale=values.get("scale", float),
        exp=values.positive_real("exp", None if dynamic else 5.0),
        num_steps=values.positive("num_steps", None if dynamic else steps),
    )
    values.done()
    return SamplerConfig(kind, steps, _schedule(params.section("discretization_config")), guidance)
