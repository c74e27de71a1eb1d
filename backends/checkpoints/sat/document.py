"""The YAML of a SAT folder: CogVideo's published keys with the sizes and settings of one model.

Paths in it are relative to the folder, so start SAT's `sample_video.py --base <file>` there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from backends.checkpoints.config_keys import (
    DIFFUSION,
    GUIDERS,
    POSITIONS,
    SAMPLERS,
    SCHEDULE_SETTINGS,
    TRANSFORMER_SETTINGS,
    VAE_SETTINGS,
    to_sat,
)
from backends.checkpoints.sat.config import (
    ModelConfig,
    ScheduleConfig,
    TransformerConfig,
    VaeConfig,
)


def sat_document(config: ModelConfig, dtype: str) -> str:
    """YAML text of a new SAT folder.

    `dtype` is the transformer's ("bfloat16", ...): the inference script must be told in which
    precision to run, and running in the stored one is what CogVideo's own files do.
    """
    document = {"model": _model(config), "args": _args(config, dtype)}
    return yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=100)


def updated_document(text: str, config: ModelConfig) -> str:
    """The YAML `text` with the `model` section that `config` describes; comments are lost."""
    document = yaml.safe_load(text)
    document["model"] = _model(config)
    return yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=100)


def _model(config: ModelConfig) -> dict[str, Any]:
    image: dict[str, Any] = (
        {"noised_image_input": True, "noised_image_all_concat": False, "noised_image_dropout": 0.05}
        if config.transformer.takes_image
        else {}
    )
    return {
        "scale_factor": config.scale_factor,
        "disable_first_stage_autocast": True,
        **image,
        "log_keys": ["txt"],
        "denoiser_config": {
            "target": f"{DIFFUSION}.denoiser.DiscreteDenoiser",
            "params": {
                "num_idx": config.denoiser_schedule.num_timesteps,
                "quantize_c_noise": False,
                "weighting_config": {"target": f"{DIFFUSION}.denoiser_weighting.EpsWeighting"},
                "scaling_config": {"target": f"{DIFFUSION}.denoiser_scaling.VideoScaling"},
                "discretization_config": _schedule(config.denoiser_schedule),
            },
        },
        "network_config": {
            "target": "dit_video_concat.DiffusionTransformer",
            "params": _transformer(config.transformer),
        },
        "conditioner_config": {
            "target": "sgm.modules.GeneralConditioner",
            "params": {
                "emb_models": [
                    {
                        "is_trainable": False,
                        "input_key": "txt",
                        "ucg_rate": 0.1,
                        "target": "sgm.modules.encoders.modules.FrozenT5Embedder",
                        "params": {
                            "model_dir": config.text.model_dir,
                            "max_length": config.text.max_length,
                        },
                    }
                ]
            },
        },
        "first_stage_config": {
            "target": "vae_modules.autoencoder.VideoAutoencoderInferenceWrapper",
            "params": {
                "cp_size": 1,
                "ckpt_path": "vae/3d-vae.pt",
                "ignore_keys": ["loss"],
                "loss_config": {"target": "torch.nn.Identity"},
                "regularizer_config": {
                    "target": "vae_modules.regularizers.DiagonalGaussianRegularizer"
                },
                "encoder_config": _vae("ContextParallelEncoder3D", config.vae, True),
                "decoder_config": _vae("ContextParallelDecoder3D", config.vae, False),
            },
        },
        "loss_fn_config": {
            "target": f"{DIFFUSION}.loss.VideoDiffusionLoss",
            "params": {
                "offset_noise_level": 0,
                "sigma_sampler_config": {
                    "target": f"{DIFFUSION}.sigma_sampling.DiscreteSampling",
                    "params": {
                        "uniform_sampling": True,
                        "num_idx": config.denoiser_schedule.num_timesteps,
                        "discretization_config": _schedule(config.denoiser_schedule),
                    },
                },
            },
        },
        "sampler_config": _sampler(config),
    }


def _transformer(config: TransformerConfig) -> dict[str, Any]:
    rows = TRANSFORMER_SETTINGS
    place = to_sat(rows, config, "pos_embed_config")
    if config.positions == "rotary":
        place["hidden_size_head"] = config.head_size
        if config.learned_positions:
            place["learnable_pos_embed"] = True
    else:
        for axis, divisor in zip(("time", "height", "width"), config.interpolation, strict=True):
            place[f"{axis}_interpolation"] = divisor
    side, ofs = config.patch_size, config.ofs_embed_dim
    return {
        **({} if ofs is None else {"ofs_embed_dim": ofs}),
        **to_sat(rows, config),
        "patch_size": side if config.patch_size_t is None else [config.patch_size_t, side, side],
        "hidden_size": config.hidden_size,
        "adm_in_channels": 256,
        "transformer_args": {
            "checkpoint_activations": True,
            **to_sat(rows, config, "transformer_args"),
            "layernorm_order": "pre",
            "skip_init": False,
            "model_parallel_size": 1,
            "is_decoder": False,
        },
        "modules": {
            "pos_embed_config": {"target": _named(POSITIONS, config.positions), "params": place},
            "patch_embed_config": {
                "target": "dit_video_concat.ImagePatchEmbeddingMixin",
                "params": to_sat(rows, config, "patch_embed_config"),
            },
            "adaln_layer_config": {
                "target": "dit_video_concat.AdaLNMixin",
                "params": to_sat(rows, config, "adaln_layer_config"),
            },
            "final_layer_config": {"target": "dit_video_concat.FinalLayerMixin"},
        },
    }


def _named(classes: Mapping[str, object], kind: object) -> str:
    """SAT's class of a kind."""
    return next(name for name, found in classes.items() if found == kind)


def _vae(kind: str, config: VaeConfig, gather_norm: bool) -> dict[str, Any]:
    return {
        "target": f"vae_modules.cp_enc_dec.{kind}",
        "params": {
            "double_z": True,
            **to_sat(VAE_SETTINGS, config),
            "resolution": 256,
            "out_ch": config.image_channels,
            "ch": config.ch,
            "ch_mult": list(config.ch_mult),
            "attn_resolutions": [],
            "dropout": 0.0,
            "gather_norm": gather_norm,
        },
    }


def _schedule(config: ScheduleConfig) -> dict[str, Any]:
    return {
        "target": f"{DIFFUSION}.discretizer.ZeroSNRDDPMDiscretization",
        "params": to_sat(SCHEDULE_SETTINGS, config),
    }


def _sampler(config: ModelConfig) -> dict[str, Any]:
    sampler, guidance = config.sampler, config.sampler.guidance
    scale: dict[str, Any] = {"scale": guidance.scale}
    if guidance.dynamic:
        scale |= {"exp": guidance.exp, "num_steps": guidance.num_steps}
    return {
        "target": _named(SAMPLERS, sampler.kind),
        "params": {
            "num_steps": sampler.num_steps,
            "verbose": True,
            "discretization_config": _schedule(sampler.schedule),
            "guider_config": {
                "target": _named(GUIDERS, guidance.dynamic),
                "params": scale,
            },
        },
    }


def _args(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """The inference script's arguments; `sampling_num_frames` counts latent frames.

    1.5 image-to-video takes its size from the picture.
    """
    transformer, pixels = config.transformer, config.vae.spatial_compression
    is_15 = transformer.patch_size_t is not None
    precision = {"bfloat16": {"bf16": True}, "float16": {"fp16": True}}
    size = (
        [768, 1360]
        if is_15
        else [transformer.latent_height * pixels, transformer.latent_width * pixels]
    )
    return {
        "image2video": transformer.takes_image,
        "latent_channels": config.vae.z_channels,
        "mode": "inference",
        "load": "transformer",
        "batch_size": 1,
        "input_type": "cli",
        **({} if is_15 and transformer.takes_image else {"sampling_image_size": size}),
        "sampling_num_frames": transformer.latent_frames(transformer.num_frames),
        "sampling_fps": 16 if is_15 else 8,
        **precision.get(dtype, {}),
        "output_dir": "outputs",
        "force_inference": True,
    }
