"""The settings of a SAT model that decide its mathematics, as typed values.

`yaml_reader.read_config` makes them from CogVideo's own YAML files. Field names follow those files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backends.errors import CheckpointError, Unsupported

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

    def check(self, where: str) -> None:
        """Raise `Unsupported` for a kind of model that neither code base has."""
        if self.in_channels not in (self.out_channels, 2 * self.out_channels):
            raise Unsupported(
                f"{where}: {self.in_channels} channels in and {self.out_channels} out; SAT has"
                " text-to-video models, with as many in as out, and image-to-video models, with twice"
                " as many"
            )
        rotary, is_15 = self.positions == "rotary", self.patch_size_t is not None
        if is_15 and (self.learned_positions or not rotary):
            raise Unsupported(
                f"{where}: patches in time, as CogVideoX 1.5 has, need its rotary positions alone"
            )
        if self.learned_positions and not rotary:
            raise Unsupported(f"{where}: learned positions are supported beside rotary ones only")
        if self.ofs_embed_dim is not None and not is_15:
            raise Unsupported(
                f"{where}: a mixture of CogVideoX 1.0 and 1.5, of which there is no model:"
                f" ofs_embed_dim {self.ofs_embed_dim}, as 1.5 has, but a patch_size of 1.0; CogVideo's"
                " main branch takes a list there, such as [2, 2, 2]"
            )

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

    def check(self, where: str) -> None:
        """Raise `CheckpointError` for noise that does not rise from step to step."""
        if not self.linear_start < self.linear_end < 1:
            raise CheckpointError(
                f"{where}: noise from linear_start (beta_start in Diffusers) {self.linear_start} to"
                f" linear_end (beta_end) {self.linear_end}; expected a rise that ends below 1. Correct"
                " the file"
            )


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
        """Shape (1, T, C, H, W) of the latents of a video of `frames`, 1.5's padding frame included.

        `height` and `width` are pixels.
        """
        transformer, pixels = self.transformer, self.vae.spatial_compression
        channels = transformer.out_channels
        return 1, transformer.latent_frames(frames), channels, height // pixels, width // pixels
