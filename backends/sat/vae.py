"""CogVideoX's 3-D causal VAE with the key layout of SAT's `vae/3d-vae.pt`.

Temporal rules are those of CogVideo (`sat/vae_modules/cp_enc_dec.py`): `decode_pieces` of tag v1.0's
`sat/sample_video.py`, `equal_pieces` of the main branch's `sat/diffusion_video.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn

from backends.checkpoints.sat.config import VaeConfig
from backends.errors import InvalidRequest
from backends.sat.causal import CausalConv3d
from backends.sat.vae_layers import Downsample, LatentNorm, ResBlock, Upsample, group_norm, swish


class _Level(nn.Module):
    """The residual blocks of one resolution and what leads to the next."""

    def __init__(self, blocks: list[ResBlock]) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self.downsample: Downsample | None = None
        self.upsample: Upsample | None = None


class _Middle(nn.Module):
    def __init__(self, channels: int, latent_channels: int | None) -> None:
        super().__init__()
        self.block_1 = ResBlock(channels, channels, latent_channels)
        self.block_2 = ResBlock(channels, channels, latent_channels)


class Encoder(nn.Module):
    """Video (B, 3, T, H, W) in [-1, 1] to mean and log variance (B, 2z, t, h, w)."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        timed = int(math.log2(config.temporal_compress_times))
        widths = [config.ch * m for m in config.ch_mult]
        self.conv_in = CausalConv3d(config.image_channels, config.ch, 3)
        self.down = nn.ModuleList()
        channels = config.ch
        for i, width in enumerate(widths):
            inputs = [channels] + [width] * (config.num_res_blocks - 1)
            level = _Level([ResBlock(n, width, None) for n in inputs])
            if i < len(widths) - 1:
                level.downsample = Downsample(width, compress_time=i < timed)
            self.down.append(level)
            channels = width
        self.mid = _Middle(channels, None)
        self.norm_out = group_norm(channels)
        self.conv_out = CausalConv3d(channels, 2 * config.z_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Encode the whole video at once: SAT does not split it, Diffusers takes 8 frames a
        piece."""
        h = self.conv_in(x)
        for level in cast(Iterable[_Level], self.down):
            for block in level.block:
                h = block(h)
            if level.downsample is not None:
                h = level.downsample(h)
        h = self.mid.block_2(self.mid.block_1(h))
        return self.conv_out(swish(self.norm_out(h)))


class Decoder(nn.Module):
    """Latents (B, z, t, h, w), not scaled, to video (B, 3, T, H, W) in about [-1, 1]."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        levels = len(config.ch_mult)
        timed = int(math.log2(config.temporal_compress_times))
        z = config.z_channels
        channels = config.ch * config.ch_mult[-1]
        self.conv_in = CausalConv3d(z, channels, 3)
        self.mid = _Middle(channels, z)
        self.up = nn.ModuleList()
        for i in reversed(range(levels)):
            width = config.ch * config.ch_mult[i]
            inputs = [channels] + [width] * config.num_res_blocks
            level = _Level([ResBlock(n, width, z) for n in inputs])
            if i > 0:
                level.upsample = Upsample(width, compress_time=i >= levels - timed)
            self.up.insert(0, level)
            channels = width
        self.norm_out = LatentNorm(channels, z)
        self.conv_out = CausalConv3d(channels, config.image_channels, 3)

    def forward(self, latent: Tensor, keep: bool, lone_first: bool) -> Tensor:
        """Decode one piece; `keep` leaves the caches behind for the piece that follows.

        `lone_first`: the piece's first latent frame stands for one pixel frame, not for several.
        """
        h = self.conv_in(latent, keep)
        h = self.mid.block_1(h, latent, keep)
        h = self.mid.block_2(h, latent, keep)
        for level in reversed(cast(list[_Level], self.up)):
            for block in level.block:
                h = block(h, latent, keep)
            if level.upsample is not None:
                h = level.upsample(h, lone_first)
        return self.conv_out(swish(self.norm_out(h, latent)), keep)


def decode_pieces(frames: int) -> list[tuple[int, int]]:
    """Start and end of the pieces in which SAT decodes `frames` latent frames: 3, then 2 each.

    An even number has no such split (SAT's script drops the last frame without a word), so it is
    refused with `InvalidRequest`. One frame is decoded whole.
    """
    if frames == 1:
        return [(0, 1)]
    if frames < 1 or frames % 2 == 0:
        raise InvalidRequest(
            f"{frames} latent frames: SAT decodes an odd number of them (it drops the last of an even"
            " number); ask for 8n+1 frames, such as 9, 17 or 49"
        )
    return [(0, 3)] + [(start, start + 2) for start in range(3, frames, 2)]


def equal_pieces(frames: int) -> list[tuple[int, int]]:
    """Start and end of the pieces in which SAT 1.5 decodes `frames` latent frames.

    There are `min(10, frames // 2)` of about equal length, the longer ones first; up to 21 frames
    that is two each, three in the first piece of an odd number. Raises `InvalidRequest` for one
    frame, of which SAT makes no piece.
    """
    count = min(10, frames // 2)
    if count < 1:
        raise InvalidRequest(
            f"{frames} latent frames: CogVideo's 1.5 code decodes at least two; ask for 9 frames"
            " or more"
        )
    length, longer = divmod(frames, count)
    ends = [length * (i + 1) + min(i + 1, longer) for i in range(count)]
    return list(zip([0, *ends], ends, strict=False))


class VideoAutoencoder(nn.Module):
    """Encoder and decoder of one VAE, in the dtype that it is cast to."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, video: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
        """Sample latents (B, z, t, h, w), not scaled, of a video (B, 3, T, H, W) in [-1, 1].

        `draw` returns standard normal noise of the shape, dtype and device of its argument. The log
        variance is clipped to [-30, 20].
        """
        mean, log_variance = self.encoder(video).chunk(2, dim=1)
        deviation = torch.exp(0.5 * log_variance.clamp(-30.0, 20.0))
        return mean + deviation * draw(mean)

    def decode(
        self,
        latents: Tensor,
        pieces: list[tuple[int, int]] | None = None,
        lone_first: bool = True,
    ) -> Tensor:
        """Video (B, 3, T, H, W) in about [-1, 1] of latents (B, z, t, h, w), not scaled.

        `pieces` cover the latents in order; None takes `decode_pieces`. With `lone_first`, the very
        first latent frame becomes one pixel frame and every other one four; without, all become
        four.
        """
        pieces = decode_pieces(latents.shape[2]) if pieces is None else pieces
        try:
            outputs = [
                self.decoder(
                    latents[:, :, start:end].contiguous(),
                    keep=end < latents.shape[2],
                    lone_first=lone_first and start == 0,
                )
                for start, end in pieces
            ]
        except BaseException:
            for module in self.decoder.modules():
                if isinstance(module, CausalConv3d):
                    module.clear()
            raise
        return torch.cat(outputs, dim=2)
