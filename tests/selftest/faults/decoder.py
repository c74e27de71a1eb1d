"""Defects in the VAE's decoder on Diffusers: scaling, norms, caches, upsampling, pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backends.base import Pipeline
from backends.worker.patches import patch
from tests.selftest.faults.planting import become, exchange, module, on_output, stack


def _decoder_modules(pipeline: Pipeline, kind: str) -> list[Any]:
    """Modules of the decoder whose class is called `kind`."""
    found = module(pipeline, "vae.decoder").modules()
    return [each for each in found if type(each).__name__ == kind]


def on_latents(pipeline: Pipeline, change: Callable[[Tensor], Tensor]) -> None:
    """Let `change` replace the latents (B, C, T, H, W) that the VAE is given."""
    vae = stack(pipeline).vae
    native = type(vae).decode

    def decode(self: Any, z: Tensor, *arguments: Any, **keywords: Any) -> Any:
        return native(self, change(z), *arguments, **keywords)

    become(vae, decode=decode)


def on_video(pipeline: Pipeline, change: Callable[[Tensor], Tensor]) -> None:
    """Let `change` replace the video (B, 3, T, H, W), about [-1, 1], that the VAE gives."""
    vae = stack(pipeline).vae
    native = type(vae)._decode

    def decode(self: Any, z: Tensor, *arguments: Any, **keywords: Any) -> Any:
        found = native(self, z, *arguments, **keywords)
        found.sample = change(found.sample)
        return found

    become(vae, _decode=decode)


@patch("decoder_scaling_factor")
def scaling_factor(pipeline: Pipeline) -> None:
    """The 5B's latents are unscaled with the 2B's factor: a converter's default."""
    pipe = stack(pipeline)
    pipe.vae.register_to_config(scaling_factor=1.15258426)
    pipe.vae_scaling_factor_image = 1.15258426


@patch("decoder_scaling_factor_of_5b")
def scaling_factor_of_5b(pipeline: Pipeline) -> None:
    """The 2B's latents are unscaled with the 5B's factor."""
    pipe = stack(pipeline)
    pipe.vae.register_to_config(scaling_factor=0.7)
    pipe.vae_scaling_factor_image = 0.7


@patch("decoder_scaling_inverted")
def scaling_inverted(pipeline: Pipeline) -> None:
    """Latents are multiplied by the factor where they should be divided."""
    factor = float(stack(pipeline).vae_scaling_factor_image)
    on_latents(pipeline, lambda z: z * factor * factor)


@patch("decoder_unscaled")
def unscaled(pipeline: Pipeline) -> None:
    """Latents go into the decoder as they are."""
    factor = float(stack(pipeline).vae_scaling_factor_image)
    on_latents(pipeline, lambda z: z * factor)


@patch("decoder_latents_clamped")
def latents_clamped(pipeline: Pipeline) -> None:
    """Latents are clamped to [-2, 2] before decoding."""
    on_latents(pipeline, lambda z: z.clamp(-2, 2))


@patch("decoder_latents_bf16")
def latents_bf16(pipeline: Pipeline) -> None:
    """Latents are rounded to bfloat16 before decoding in a float32 run."""
    on_latents(pipeline, lambda z: z.bfloat16().to(z.dtype))


@patch("decoder_frames_reversed")
def frames_reversed(pipeline: Pipeline) -> None:
    """Latent frames are decoded last to first."""
    on_latents(pipeline, lambda z: z.flip(2))


@patch("decoder_first_latent_lost")
def first_latent_lost(pipeline: Pipeline) -> None:
    """The first latent frame is replaced by the second."""
    on_latents(pipeline, lambda z: torch.cat((z[:, :, 1:2], z[:, :, 1:]), dim=2))


@patch("decoder_transposed")
def transposed(pipeline: Pipeline) -> None:
    """Rows and columns of the latents exchanged: invisible in the shape of a square video."""
    on_latents(pipeline, lambda z: z.transpose(-1, -2))


@patch("decoder_norm_over_frames")
def norm_over_frames(pipeline: Pipeline) -> None:
    """Group norms are taken frame by frame, not over the piece."""

    def forward(self: Any, x: Tensor) -> Tensor:
        frames = [nn.GroupNorm.forward(self, frame) for frame in x.unbind(2)]
        return torch.stack(frames, dim=2)

    for norm in _decoder_modules(pipeline, "GroupNorm"):
        become(norm, forward=forward)


@patch("decoder_norm_groups")
def norm_groups(pipeline: Pipeline) -> None:
    """16 groups in place of 32 in the last norm."""
    module(pipeline, "vae.decoder.norm_out.norm_layer").num_groups = 16


@patch("decoder_spatial_norm_swapped")
def spatial_norm_swapped(pipeline: Pipeline) -> None:
    """Scale and shift of one spatial norm exchanged."""
    norm = module(pipeline, "vae.decoder.mid_block.resnets.1.norm1")
    for kind in ("weight", "bias"):
        exchange(getattr(norm.conv_y.conv, kind), getattr(norm.conv_b.conv, kind))


@patch("decoder_cache_dropped")
def cache_dropped(pipeline: Pipeline) -> None:
    """Every piece is decoded as if a video began with it."""

    def padded(self: Any, inputs: Tensor, conv_cache: Tensor | None = None) -> Tensor:
        first = inputs[:, :, :1].expand(-1, -1, self.time_kernel_size - 1, -1, -1)
        return torch.cat((first, inputs), dim=2)

    for conv in _decoder_modules(pipeline, "CogVideoXCausalConv3d"):
        become(conv, fake_context_parallel_forward=padded)


@patch("decoder_pads_with_zeros")
def pads_with_zeros(pipeline: Pipeline) -> None:
    """A video begins after zeros where it should begin after copies of its first frame."""

    def padded(self: Any, inputs: Tensor, conv_cache: Tensor | None = None) -> Tensor:
        if self.time_kernel_size > 1:
            start = conv_cache
            if start is None:
                start = torch.zeros_like(inputs[:, :, :1]).repeat(
                    1, 1, self.time_kernel_size - 1, 1, 1
                )
            inputs = torch.cat((start, inputs), dim=2)
        return inputs

    for conv in _decoder_modules(pipeline, "CogVideoXCausalConv3d"):
        become(conv, fake_context_parallel_forward=padded)


@patch("decoder_pads_both_sides")
def pads_both_sides(pipeline: Pipeline) -> None:
    """The last convolution looks one frame ahead."""

    def padded(self: Any, inputs: Tensor, conv_cache: Tensor | None = None) -> Tensor:
        start = inputs[:, :, :1] if conv_cache is None else conv_cache[:, :, -1:]
        return torch.cat((start, inputs, inputs[:, :, -1:]), dim=2)

    become(module(pipeline, "vae.decoder.conv_out"), fake_context_parallel_forward=padded)


@patch("decoder_pieces_of_one")
def pieces_of_one(pipeline: Pipeline) -> None:
    """One latent frame at a time."""
    stack(pipeline).vae.num_latent_frames_batch_size = 1


@patch("decoder_pieces_of_four")
def pieces_of_four(pipeline: Pipeline) -> None:
    """Four latent frames at a time."""
    stack(pipeline).vae.num_latent_frames_batch_size = 4


@patch("decoder_activation")
def activation(pipeline: Pipeline) -> None:
    """ReLU in place of SiLU in one residual block."""
    module(pipeline, "vae.decoder.up_blocks.0.resnets.0").nonlinearity = nn.ReLU()


@patch("decoder_upsampling_bilinear")
def upsampling_bilinear(pipeline: Pipeline) -> None:
    """One level is upsampled bilinearly, not by nearest neighbour."""
    upsampler = module(pipeline, "vae.decoder.up_blocks.2.upsamplers.0")

    def forward(self: Any, inputs: Tensor) -> Tensor:
        batch, channels, frames = inputs.shape[:3]
        flat = inputs.transpose(1, 2).flatten(0, 1)
        flat = self.conv(F.interpolate(flat, scale_factor=2.0, mode="bilinear"))
        return flat.view(batch, frames, channels, *flat.shape[-2:]).transpose(1, 2)

    become(upsampler, forward=forward)


@patch("decoder_first_frame_upsampled")
def first_frame_upsampled(pipeline: Pipeline) -> None:
    """The guide of a spatial norm is stretched as a whole: the first frame gets no place of its own."""

    def forward(self: Any, f: Tensor, zq: Tensor, conv_cache: Any = None) -> Any:
        guide = F.interpolate(zq, size=f.shape[-3:])
        scale, _ = self.conv_y(guide)
        shift, _ = self.conv_b(guide)
        return self.norm_layer(f) * scale + shift, {}

    for norm in _decoder_modules(pipeline, "CogVideoXSpatialNorm3D"):
        become(norm, forward=forward)


@patch("decoder_branch_weak")
def branch_weak(pipeline: Pipeline) -> None:
    """One residual block adds 10 % too little to its input."""
    on_output(
        module(pipeline, "vae.decoder.mid_block.resnets.1.conv2"),
        lambda out: (out[0] * 0.9, out[1]),
    )


@patch("decoder_tiled")
def tiled(pipeline: Pipeline) -> None:
    """Decoded in tiles, which no option of the run says."""
    stack(pipeline).vae.enable_tiling()


@patch("decoder_tiles_not_blended")
def tiles_not_blended(pipeline: Pipeline) -> None:
    """Decoded in tiles with hard seams."""
    vae = stack(pipeline).vae
    vae.enable_tiling()

    def unblended(self: Any, before: Tensor, tile: Tensor, extent: int) -> Tensor:
        return tile

    become(vae, blend_v=unblended, blend_h=unblended)


@patch("decoder_bf16")
def bf16(pipeline: Pipeline) -> None:
    """Every convolution's result is rounded to bfloat16 in a float32 run."""
    for conv in _decoder_modules(pipeline, "CogVideoXSafeConv3d"):
        on_output(conv, lambda out: out.bfloat16().to(out.dtype))


@patch("decoder_gain")
def gain(pipeline: Pipeline) -> None:
    """The video is 2 % too strong around grey."""
    on_video(pipeline, lambda video: video * 1.02)


@patch("decoder_channel_bias")
def channel_bias(pipeline: Pipeline) -> None:
    """Two grey levels too much red."""

    def change(video: Tensor) -> Tensor:
        video = video.clone()
        video[:, 0] += 4 / 255
        return video

    on_video(pipeline, change)


@patch("decoder_not_denormalised")
def not_denormalised(pipeline: Pipeline) -> None:
    """The video is clamped to [0, 1] without being brought there from [-1, 1]."""

    def clamped(self: Any, images: Tensor) -> Tensor:
        return images.clamp(0, 1)

    become(stack(pipeline).video_processor, denormalize=clamped)


@patch("decoder_last_frame_stale")
def last_frame_stale(pipeline: Pipeline) -> None:
    """The last decoded frame is a copy of the one before: a write that came too late."""
    on_video(pipeline, lambda video: torch.cat((video[:, :, :-1], video[:, :, -2:-1]), dim=2))
