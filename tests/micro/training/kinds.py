"""What tells the micro models apart: positions, patches, conditioning, scheduler, scaling factor.

Each is to its real namesake as small as it is true: the settings that differ between two real models
differ between their micro models, with the real values where size does not forbid it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from tests.micro.training.stack import diffusers
from tests.micro.training.text import TEXT_LENGTH

TIME_EMBED_DIM = 128
NATURAL_LATENT_SIZE = 8
LARGEST_LATENT_SIZE = 20
"""`sample_height` and `sample_width` of the 1.5 models. Like the real 300 it is the size of the table
that RoPE is sliced from, not the size that they were trained on."""


@dataclass(frozen=True)
class Kind:
    """One micro model's topology. `scaling_factor` and `snr_shift_scale` are the real models' own.

    `parent` is the model from whose weights training started, and whose VAE and text encoder it
    keeps. `image` marks an image-to-video model. `patch_frames` is `patch_size_t` of CogVideoX 1.5.
    """

    name: str
    rotary: bool
    sampler: str
    snr_shift_scale: float
    scaling_factor: float
    seed: int
    parent: str | None = None
    image: bool = False
    patch_frames: int | None = None

    @property
    def invert_scale_latents(self) -> bool:
        """Whether the picture's latents are divided by the scaling factor, as the 1.5 VAE says."""
        return self.patch_frames is not None

    @property
    def image_scale(self) -> float:
        """The multiplier of the picture's latents."""
        return 1 / self.scaling_factor if self.invert_scale_latents else self.scaling_factor


KINDS = {
    kind.name: kind
    for kind in (
        Kind("micro-2b", False, "ddim", 3.0, 1.15258426, 0),
        Kind("micro-5b", True, "dpm", 1.0, 0.7, 1),
        Kind("micro-5b-i2v", True, "dpm", 1.0, 0.7, 2, "micro-5b", image=True),
        Kind("micro-1.5-5b", True, "dpm", 1.0, 0.7, 3, "micro-5b", patch_frames=2),
        Kind(
            "micro-1.5-5b-i2v", True, "dpm", 1.0, 0.7, 4, "micro-1.5-5b", image=True, patch_frames=2
        ),
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
    """A fresh transformer: 6 layers, 4 heads of 32, natural size 17 frames of 64x64.

    What follows from `image` and `patch_frames` is as in Diffusers' `convert_cogvideox_to_diffusers`:
    learned positions in the 1.0 image-to-video model only, an `ofs` embedding in the 1.5 one only.
    """
    newer = kind.patch_frames is not None
    size = LARGEST_LATENT_SIZE if newer else NATURAL_LATENT_SIZE
    return diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=32 if kind.image else 16,
        out_channels=16,
        time_embed_dim=TIME_EMBED_DIM,
        ofs_embed_dim=TIME_EMBED_DIM if kind.image and newer else None,
        text_embed_dim=64,
        num_layers=6,
        sample_width=size,
        sample_height=size,
        sample_frames=17,
        patch_size=2,
        patch_size_t=kind.patch_frames,
        patch_bias=not newer,
        temporal_compression_ratio=4,
        max_text_seq_length=TEXT_LENGTH,
        activation_fn="gelu-approximate",
        timestep_activation_fn="silu",
        norm_elementwise_affine=True,
        norm_eps=1e-5,
        spatial_interpolation_scale=1.875,
        temporal_interpolation_scale=1.0,
        use_rotary_positional_embeddings=kind.rotary,
        use_learned_positional_embeddings=kind.image and not newer,
    )
