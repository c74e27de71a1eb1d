"""What tells the two micro models apart: positions, scheduler, scaling factor. As in 2B and 5B."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from backends.micro.stack import diffusers
from backends.micro.text import TEXT_LENGTH


@dataclass(frozen=True)
class Kind:
    """One micro model's topology. `scaling_factor` and `snr_shift_scale` are the real models' own."""

    name: str
    rotary: bool
    sampler: str
    snr_shift_scale: float
    scaling_factor: float
    seed: int


KINDS = {
    kind.name: kind
    for kind in (
        Kind("micro-2b", False, "ddim", 3.0, 1.15258426, 0),
        Kind("micro-5b", True, "dpm", 1.0, 0.7, 1),
    )
}


def build_scheduler(kind: Kind) -> Any:
    """The kind's default scheduler, configured as the real models' `scheduler_config.json`."""
    name = "CogVideoXDPMScheduler" if kind.sampler == "dpm" else "CogVideoXDDIMScheduler"
    scheduler = getattr(diffusers, name)
    return scheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=0,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=kind.snr_shift_scale,
        timestep_spacing="trailing",
    )


def build_transformer(kind: Kind) -> nn.Module:
    """A fresh transformer: 6 layers, 4 heads of 32, natural size 17 frames of 64x64."""
    return diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=16,
        out_channels=16,
        time_embed_dim=128,
        text_embed_dim=64,
        num_layers=6,
        sample_width=8,
        sample_height=8,
        sample_frames=17,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=TEXT_LENGTH,
        activation_fn="gelu-approximate",
        timestep_activation_fn="silu",
        norm_elementwise_affine=True,
        norm_eps=1e-5,
        spatial_interpolation_scale=1.875,
        temporal_interpolation_scale=1.0,
        use_rotary_positional_embeddings=kind.rotary,
        use_learned_positional_embeddings=False,
    )
