"""The settings of a SAT model that decide its mathematics, as typed values.

`yaml_reader.read_config` makes them from CogVideo's own YAML files. Field names follow those files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PositionKind = Literal["sin_cos", "rotary"]
SamplerKind = Literal["ddim", "dpm"]


@dataclass(frozen=True)
class TransformerConfig:
    """The diffusion transformer. `interpolation` divides positions: (time, height, width).

    `patch_size` is that along height and width. `patch_size_t`, along time, tells CogVideoX 1.5 from
    1.0, where it is None. A 1.0 model renders `latent_height` x `latent_width` only, and at most
    `num_frames` pixel frames; to a 1.5 model the first two are an upper bound, and `num_frames`
    gives the length of its position table in patches. `ofs_embed_dim` belongs to 1.5
    image-to-video, `learned_positions` (added beside the rotary embedding) to 1.0 image-to-video.
    """

    num_layers: int
    hidden_size: int
    num_attention_heads: int
    time_embed_dim: int
    in_channels: int
    out_channels: int
    patch_size: int
    num_frames: int
    time_compressed_rate: int
    latent_height: int
    latent_width: int
    text_length: int
    text_hidden_size: int
    positions: PositionKind
    interpolation: tuple[float, float, float]
    qk_norm: bool
    elementwise_affine: bool
    layernorm_epsilon: float
    vocab_size: int
    max_sequence_length: int
    patch_size_t: int | None = None
    ofs_embed_dim: int | None = None
    learned_positions: bool = False

    @property
    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def takes_image(self) -> bool:
        """Whether the latents of a conditioning image come beside the noisy ones."""
        return self.in_channels == 2 * self.out_channels

    @property
    def table_frames(self) -> int:
        """Length of the position table along time, in patches."""
        return (self.num_frames - 1) // self.time_compressed_rate + 1

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a video of `frames` pixel frames, 1.5's padding frame included.

        The padding comes first (`sat/configs/inference.yaml`: 22 for 81 frames), and decoding
        drops it again.
        """
        kept = (frames - 1) // self.time_compressed_rate + 1
        return kept + int(self.patch_size_t is not None)


@dataclass(frozen=True)
class VaeConfig:
    """The 3-D causal VAE. Level i has `ch * ch_mult[i]` channels; latents have `z_channels`."""

    ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    z_channels: int
    image_channels: int
    temporal_compress_times: int

    @property
    def spatial_compression(self) -> int:
        """Pixels per latent along height and width."""
        return 2 ** (len(self.ch_mult) - 1)


@dataclass(frozen=True)
class TextConfig:
    """The T5 conditioner: its folder as the YAML names it, and the length that text is padded
    to."""

    model_dir: str
    max_length: int


@dataclass(frozen=True)
class ScheduleConfig:
    """The zero-terminal-SNR DDPM schedule (`sgm/modules/diffusionmodules/discretizer.py`)."""

    linear_start: float
    linear_end: float
    num_timesteps: int
    shift_scale: float
    keep_start: bool
    post_shift: bool


@dataclass(frozen=True)
class GuidanceConfig:
    """Guidance: `1 + scale (1 - cos(pi (k / num_steps)^exp)) / 2` if dynamic, else `scale`."""

    dynamic: bool
    scale: float
    exp: float
    num_steps: int


@dataclass(frozen=True)
class SamplerConfig:
    """Which solver, over how many steps, on which schedule, with which guidance."""

    kind: SamplerKind
    num_steps: int
    schedule: ScheduleConfig
    guidance: GuidanceConfig


@dataclass(frozen=True)
class ModelConfig:
    """One SAT model. Latents are the VAE's times `scale_factor`.

    `denoiser_schedule` is the table to which the denoiser rounds; `sampler.schedule` is the
    solver's.
    """

    scale_factor: float
    transformer: TransformerConfig
    vae: VaeConfig
    text: TextConfig
    denoiser_schedule: ScheduleConfig
    sampler: SamplerConfig

    @property
    def image_scale(self) -> float | None:
        """What SAT multiplies the VAE's latents of a conditioning image by; None if it takes none.

        `sat/sample_video.py`: 1.0 uses the scale of all latents, 1.5 divides by it again.
        """
        if not self.transformer.takes_image:
            return None
        return self.scale_factor if self.transformer.patch_size_t is None else 1.0

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int, int]:
        """Shape (1, T, C, H, W) of the latents of a video, 1.5's padding frame included.

        `height` and `width` are pixels.
        """
        transformer, pixels = self.transformer, self.vae.spatial_compression
        channels = transformer.out_channels
        return 1, transformer.latent_frames(frames), channels, height // pixels, width // pixels
