"""Layers of the 3-D causal VAE, with the parameter names of `sat/vae_modules/cp_enc_dec.py`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from backends.sat.causal import CausalConv3d, SplitConv3d, on_frames, stretch

_GROUPS = 32
_EPS = 1e-6


def swish(x: Tensor) -> Tensor:
    """x times sigmoid(x), as two operations: in half precision `F.silu` rounds differently."""
    return x * torch.sigmoid(x)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm over 32 groups; statistics run over all frames of the piece at hand."""
    return nn.GroupNorm(_GROUPS, channels, eps=_EPS)


class LatentNorm(nn.Module):
    """Group norm of features whose scale and shift are convolutions of the latent."""

    def __init__(self, channels: int, latent_channels: int) -> None:
        super().__init__()
        self.norm_layer = group_norm(channels)
        self.conv_y = CausalConv3d(latent_channels, channels, 1)
        self.conv_b = CausalConv3d(latent_channels, channels, 1)

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        """Normalise x (B, C, T, H, W) with latent (B, z, t, h, w), stretched to the size of x."""
        frames, height, width = x.shape[-3:]
        guide = stretch(latent, (frames, height, width))
        return self.norm_layer(x) * self.conv_y(guide) + self.conv_b(guide)


class ResBlock(nn.Module):
    """Two causal convolutions and a shortcut; the norms take the latent in the decoder."""

    def __init__(self, channels: int, out_channels: int, latent_channels: int | None) -> None:
        super().__init__()

        def norm(size: int) -> nn.Module:
            return (
                group_norm(size) if latent_channels is None else LatentNorm(size, latent_channels)
            )

        self.norm1 = norm(channels)
        self.conv1 = CausalConv3d(channels, out_channels, 3)
        self.norm2 = norm(out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels, 3)
        self.nin_shortcut = (
            SplitConv3d(channels, out_channels, 1) if channels != out_channels else None
        )

    def forward(self, x: Tensor, latent: Tensor | None = None, keep: bool = False) -> Tensor:
        """(B, C, T, H, W) -> (B, C', T, H, W); `latent` is given in the decoder and only there."""
        guide = () if latent is None else (latent,)
        h = self.conv1(swish(self.norm1(x, *guide)), keep)
        h = self.conv2(swish(self.norm2(h, *guide)), keep)
        return (x if self.nin_shortcut is None else self.nin_shortcut(x)) + h


class Downsample(nn.Module):
    """Halves height and width by a strided 2-D convolution, and time, if asked, by a mean."""

    def __init__(self, channels: int, compress_time: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2)
        self._compress_time = compress_time

    def forward(self, x: Tensor) -> Tensor:
        """Of an odd number of frames the first is kept as it is and the rest averaged in pairs."""
        if self._compress_time and x.shape[2] > 1:
            lone = x.shape[2] % 2
            batch, _, _, height, _ = x.shape
            lines = rearrange(x, "b c t h w -> (b h w) c t")
            # `avg_pool3d` has no half-precision kernel on the CPU; `avg_pool1d` has.
            means = F.avg_pool1d(lines[..., lone:], kernel_size=2, stride=2)
            lines = torch.cat((lines[..., :lone], means), dim=-1)
            x = rearrange(lines, "(b h w) c t -> b c t h w", b=batch, h=height)
        return on_frames(self.conv, F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles height and width, and time if asked, by nearest neighbour; then a 2-D convolution."""

    def __init__(self, channels: int, compress_time: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self._compress_time = compress_time

    def forward(self, x: Tensor, lone_first: bool) -> Tensor:
        """Of several frames the first is not doubled in time where it is to stay alone."""
        frames, height, width = x.shape[-3:]
        if self._compress_time and frames > 1:
            frames = 2 * frames - int(lone_first)
        return on_frames(self.conv, stretch(x, (frames, 2 * height, 2 * width)))
