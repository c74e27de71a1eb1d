"""The YAML of a SAT folder: CogVideo's published keys with the sizes and settings of one model.

Paths in it are relative to the folder, so start SAT's `sample_video.py --base <file>` there.
"""

from __future__ import annotations

from typing import Any

import yaml

from backends.checkpoints.sat.config import (
    ModelConfig,
    ScheduleConfig,
    TransformerConfig,
    VaeConfig,
)

_DIFFUSION = "sgm.modules.diffusionmodules"
_SAMPLERS = {"ddim": "VideoDDIMSampler", "dpm": "VPSDEDPMPP2MSampler"}


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
            "target": f"{_DIFFUSION}.denoiser.DiscreteDenoiser",
            "params": {
                "num_idx": config.denoiser_schedule.num_timesteps,
                "quantize_c_noise": False,
                "weighting_config": {"target": f"{_DIFFUSION}.denoiser_weighting.EpsWeighting"},
                "scaling_config": {"target": f"{_DIFFUSION}.denoiser_scaling.VideoScaling"},
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
            "target": f"{_DIFFUSION}.loss.VideoDiffusionLoss",
            "params": {
                "offset_noise_level": 0,
                "sigma_sampler_config": {
                    "target": f"{_DIFFUSION}.sigma_sampling.DiscreteSampling",
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
    place: dict[str, Any] = {"text_length": config.text_length}
    if config.positions == "rotary":
        kind = "Rotary3DPositionEmbeddingMixin"
        place["hidden_size_head"] = config.head_size
        if config.learned_positions:
            place["learnable_pos_embed"] = True
    else:
        kind = "Basic3DPositionEmbeddingMixin"
        for axis, divisor in zip(("time", "height", "width"), config.interpolation, strict=True):
            place[f"{axis}_interpolation"] = divisor
    side, ofs = config.patch_size, config.ofs_embed_dim
    return {
        **({} if ofs is None else {"ofs_embed_dim": ofs}),
        "time_embed_dim": config.time_embed_dim,
        "elementwise_affine": config.elementwise_affine,
        "num_frames": config.num_frames,
        "time_compressed_rate": config.time_compressed_rate,
        "latent_width": config.latent_width,
        "latent_height": config.latent_height,
        "num_layers": config.num_layers,
        "patch_size": side if config.patch_size_t is None else [config.patch_size_t, side, side],
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "hidden_size": config.hidden_size,
        "adm_in_channels": 256,
        "num_attention_heads": config.num_attention_heads,
        "transformer_args": {
            "checkpoint_activations": True,
            "vocab_size": config.vocab_size,
            "max_sequence_length": config.max_sequence_length,
            "layernorm_order": "pre",
            "layernorm_epsilon": config.layernorm_epsilon,
            "skip_init": False,
            "model_parallel_size": 1,
            "is_decoder": False,
        },
        "modules": {
            "pos_embed_config": {"target": f"dit_video_concat.{kind}", "params": place},
            "patch_embed_config": {
                "target": "dit_video_concat.ImagePatchEmbeddingMixin",
                "params": {"text_hidden_size": config.text_hidden_size},
            },
            "adaln_layer_config": {
                "target": "dit_video_concat.AdaLNMixin",
                "params": {"qk_ln": config.qk_norm},
            },
            "final_layer_config": {"target": "dit_video_concat.FinalLayerMixin"},
        },
    }


def _vae(kind: str, config: VaeConfig, gather_norm: bool) -> dict[str, Any]:
    return {
        "target": f"vae_modules.cp_enc_dec.{kind}",
        "params": {
            "double_z": True,
            "z_channels": config.z_channels,
            "resolution": 256,
            "in_channels": config.image_channels,
            "out_ch": config.image_channels,
            "ch": config.ch,
            "ch_mult": list(config.ch_mult),
            "attn_resolutions": [],
            "num_res_blocks": config.num_res_blocks,
            "dropout": 0.0,
            "gather_norm": gather_norm,
            "temporal_compress_times": config.temporal_compress_times,
        },
    }


def _schedule(config: ScheduleConfig) -> dict[str, Any]:
    return {
        "target": f"{_DIFFUSION}.discretizer.ZeroSNRDDPMDiscretization",
        "params": {
            "linear_start": config.linear_start,
            "linear_end": config.linear_end,
            "num_timesteps": config.num_timesteps,
            "shift_scale": config.shift_scale,
            "keep_start": config.keep_start,
            "post_shift": config.post_shift,
        },
    }


def _sampler(config: ModelConfig) -> dict[str, Any]:
    sampler, guidance = config.sampler, config.sampler.guidance
    guider = "DynamicCFG" if guidance.dynamic else "VanillaCFG"
    scale: dict[str, Any] = {"scale": guidance.scale}
    if guidance.dynamic:
        scale |= {"exp": guidance.exp, "num_steps": guidance.num_steps}
    return {
        "target": f"{_DIFFUSION}.sampling.{_SAMPLERS[sampler.kind]}",
        "params": {
            "num_steps": sampler.num_steps,
            "verbose": True,
            "discretization_config": _schedule(sampler.schedule),
            "guider_config": {
                "target": f"{_DIFFUSION}.guiders.{guider}",
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
