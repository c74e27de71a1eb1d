"""Causal 3-D convolution with a cache, so that a video can be decoded piece by piece.

Names and arithmetic follow `sat/vae_modules/cp_enc_dec.py` on one device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SPLIT_ELEMENTS = 2**30


class SplitConv3d(nn.Conv3d):
    """A 3-D convolution that splits inputs of more than 2^30 elements along time.

    Longer inputs would overflow the index range of some kernels. Results are those of `nn.Conv3d`
    up to the choice of kernel; stride 1 and no padding along time are assumed.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (B, C, T, H, W)."""
        elements = input.numel()
        if elements <= _SPLIT_ELEMENTS:
            return super().forward(input)
        overlap = self.kernel_size[0] - 1
        pieces = torch.chunk(input, elements // _SPLIT_ELEMENTS + 1, dim=2)
        outputs: list[Tensor] = []
        for i, piece in enumerate(pieces):
            if i and overlap:
                piece = torch.cat((pieces[i - 1][:, :, -overlap:], piece), dim=2)
            outputs.append(super().forward(piece))
        return torch.cat(outputs, dim=2)


class CausalConv3d(nn.Module):
    """Convolution (B, C, T, H, W) -> (B, C', T, H, W) that sees the past only.

    Missing past frames are, at the start of a video, copies of the first frame; later they come
    from the cache that a call with `keep=True` leaves behind. A call with `keep=False` clears it.
    """

    def __init__(self, channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = SplitConv3d(channels, out_channels, kernel_size)
        self._past = kernel_size - 1
        self._margin = kernel_size // 2
        self._cache: Tensor | None = None

    def forward(self, x: Tensor, keep: bool = False) -> Tensor:
        """Convolve `x`, which continues the cached piece if there is one."""
        if self._past:
            start = self._cache
            if start is None:
                start = x[:, :, :1].expand(-1, -1, self._past, -1, -1)
            x = torch.cat((start, x), dim=2)
            self._cache = x[:, :, -self._past :].clone() if keep else None
        margin = self._margin
        return self.conv(F.pad(x, (margin, margin, margin, margin)))

    def clear(self) -> None:
        """Forget the cached frames, as after a decode that was broken off."""
        self._cache = None


def on_frames(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a 2-D module to every frame of a video (B, C, T, H, W)."""
    batch, frames = x.shape[0], x.shape[2]
    flat = module(x.transpose(1, 2).flatten(0, 1))
    return flat.unflatten(0, (batch, frames)).transpose(1, 2)


def stretch(x: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Resize a video (B, C, T, H, W) to `size` by nearest neighbour.

    When `size` has an odd number of frames above one, the first frame is resized for itself and the
    rest apart from it, because the first latent frame stands for one pixel frame and the others for
    several.
    """
    if size[0] > 1 and size[0] % 2 == 1:
        rest = (size[0] - 1, *size[1:])
        first = F.interpolate(x[:, :, :1], size=(1, *size[1:]), mode="nearest")
        return torch.cat((first, F.interpolate(x[:, :, 1:], size=rest, mode="nearest")), dim=2)
    return F.interpolate(x, size=size, mode="nearest")
