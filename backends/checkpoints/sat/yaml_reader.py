"""CogVideo's YAML configs (`sat/configs/*.yaml`) read into typed settings.

A `target:` names a class of CogVideo. It is looked up in the tables here and never imported, so a
config from anywhere can be read. What this backend cannot render is refused by name.
"""

from __future__ import annotations

from pathlib import Path

from backends.checkpoints.sat.config import (
    GuidanceConfig,
    ModelConfig,
    SamplerConfig,
    SamplerKind,
    ScheduleConfig,
    TextConfig,
    VaeConfig,
)
from backends.checkpoints.sat.sections import Section, only
from backends.checkpoints.sat.yaml_transformer import read_transformer
from backends.errors import CheckpointError, Unsupported

_DIFFUSION = "sgm.modules.diffusionmodules"
_SAMPLERS: dict[str, SamplerKind] = {
    f"{_DIFFUSION}.sampling.VideoDDIMSampler": "ddim",
    f"{_DIFFUSION}.sampling.VPSDEDPMPP2MSampler": "dpm",
}
_GUIDERS = {
    f"{_DIFFUSION}.guiders.VanillaCFG": False,
    f"{_DIFFUSION}.guiders.DynamicCFG": True,
}


def read_config(path: Path) -> ModelConfig:
    """Read the `model` section of a CogVideo YAML file.

    Raises `CheckpointError` when the file is damaged or incomplete, and `Unsupported` when it
    describes a model that this backend does not render.
    """
    model = Section.from_file(path).section("model")
    denoiser = only(model.section("denoiser_config"), f"{_DIFFUSION}.denoiser.DiscreteDenoiser")
    denoiser.require("num_idx", 1000, None)
    denoiser.require("quantize_c_noise", False, True)
    only(denoiser.section("scaling_config"), f"{_DIFFUSION}.denoiser_scaling.VideoScaling").done()
    text = _text(model.section("conditioner_config"))
    transformer = read_transformer(model.section("network_config"))
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
    multipliers = params.multipliers("ch_mult")
    config = VaeConfig(
        ch=params.positive("ch"),
        ch_mult=multipliers,
        num_res_blocks=params.positive("num_res_blocks"),
        z_channels=params.positive("z_channels"),
        image_channels=params.positive("in_channels"),
        temporal_compress_times=params.positive("temporal_compress_times", 4),
    )
    params.require("out_ch", config.image_channels, None)
    params.done()
    return config


def _schedule(section: Section) -> ScheduleConfig:
    params = only(section, f"{_DIFFUSION}.discretizer.ZeroSNRDDPMDiscretization")
    config = ScheduleConfig(
        linear_start=params.positive_real("linear_start", 0.00085),
        linear_end=params.positive_real("linear_end", 0.0120),
        num_timesteps=params.positive("num_timesteps", 1000),
        shift_scale=params.positive_real("shift_scale", 1.0),
        keep_start=params.get("keep_start", bool, False),
        post_shift=params.get("post_shift", bool, False),
    )
    if not config.linear_start < config.linear_end < 1:
        raise CheckpointError(
            f"{params.where}: noise from linear_start {config.linear_start} to linear_end"
            f" {config.linear_end}; expected a rise that ends below 1. Correct the file"
        )
    params.done()
    return config


def _sampler(section: Section) -> SamplerConfig:
    kind = section.target(_SAMPLERS)
    params = section.section("params")
    params.require("fixed_frames", 0, 0)
    steps = params.positive("num_steps")
    guider = params.section("guider_config")
    dynamic = guider.target(_GUIDERS)
    values = guider.section("params")
    guidance = GuidanceConfig(
        dynamic=dynamic,
        scale=values.get("scale", float),
        exp=values.positive_real("exp", None if dynamic else 5.0),
        num_steps=values.positive("num_steps", None if dynamic else steps),
    )
    values.done()
    return SamplerConfig(kind, steps, _schedule(params.section("discretization_config")), guidance)
