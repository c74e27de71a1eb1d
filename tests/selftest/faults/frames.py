"""Defects after decoding: the native run's video is altered, every stage before it is right.

Videos are (T, H, W, 3) float32 in [0, 1]. The sizes are those at which published gates still pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from backends.base import Pipeline
from backends.worker.patches import patch
from tests.selftest.faults.planting import altered


def after_decoding(name: str) -> Callable[[Callable[[Tensor], Tensor]], Callable[..., Tensor]]:
    """Register a function of the video as patch `name`."""

    def register(change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
        def plant(pipeline: Pipeline) -> Pipeline:
            return altered(pipeline, frames=change)

        plant.__module__ = change.__module__  # the plugin that has it
        patch(name)(plant)
        return change

    return register


@after_decoding("frames_gain")
def gain(video: Tensor) -> Tensor:
    """Brighter by 3 %."""
    return (video * 1.03).clamp(0, 1)


@after_decoding("frames_duplicated")
def duplicated(video: Tensor) -> Tensor:
    """One frame in the middle is the one before it."""
    video = video.clone()
    middle = len(video) // 2
    video[middle] = video[middle - 1]
    return video


@after_decoding("frames_flicker")
def flicker(video: Tensor) -> Tensor:
    """Every other frame 3 grey levels brighter, the rest darker."""
    sign = 1 - 2 * (torch.arange(len(video)) % 2)
    return (video + sign.view(-1, 1, 1, 1) * 3 / 255).clamp(0, 1)


@after_decoding("frames_patch")
def bright_patch(video: Tensor) -> Tensor:
    """A patch of a sixth of each edge is 20 grey levels brighter."""
    video = video.clone()
    height, width = video.shape[1] // 6, video.shape[2] // 6
    video[:, height : 2 * height, width : 2 * width] += 20 / 255
    return video.clamp(0, 1)


@after_decoding("frames_gamma")
def gamma(video: Tensor) -> Tensor:
    """Gamma 1.05."""
    return video.clamp(0, 1) ** 1.05


@after_decoding("frames_bgr")
def bgr(video: Tensor) -> Tensor:
    """Blue and red exchanged."""
    return video.flip(-1)


@after_decoding("frames_pixel_shift")
def pixel_shift(video: Tensor) -> Tensor:
    """One pixel to the right."""
    return video.roll(1, dims=2)


@after_decoding("frames_limited_range")
def limited_range(video: Tensor) -> Tensor:
    """Written as 16 to 235 and read as 0 to 255."""
    return video * (219 / 255) + 16 / 255


@after_decoding("frames_chroma_shift")
def chroma_shift(video: Tensor) -> Tensor:
    """The blue plane is one pixel lower than the others."""
    video = video.clone()
    video[..., 2] = video[..., 2].roll(1, dims=1)
    return video


@after_decoding("frames_reversed")
def reversed_order(video: Tensor) -> Tensor:
    """Last frame first."""
    return video.flip(0)


@after_decoding("frames_late")
def late(video: Tensor) -> Tensor:
    """All frames one later; the first is shown twice and the last is lost."""
    return torch.cat((video[:1], video[:-1]))


@after_decoding("frames_truncated_levels")
def truncated_levels(video: Tensor) -> Tensor:
    """Cut to whole grey levels instead of rounded."""
    return (video * 255).floor() / 255


@after_decoding("frames_last_repeated")
def last_repeated(video: Tensor) -> Tensor:
    """The last frame is the last but one."""
    return torch.cat((video[:-1], video[-2:-1]))


@after_decoding("frames_first_dropped")
def first_dropped(video: Tensor) -> Tensor:
    """The first frame is dropped and the last one shown twice."""
    return torch.cat((video[1:], video[-1:]))


@after_decoding("frames_ghost")
def ghost(video: Tensor) -> Tensor:
    """A tenth of the frame before shines through, as after a temporal filter."""
    return torch.cat((video[:1], 0.9 * video[1:] + 0.1 * video[:-1]))


@after_decoding("frames_blurred")
def blurred(video: Tensor) -> Tensor:
    """Resized to 7/8 and back, as by a scaler in the exporter."""
    planes = video.permute(0, 3, 1, 2)
    small = F.interpolate(planes, scale_factor=0.875, mode="bilinear", antialias=True)
    back = F.interpolate(small, size=planes.shape[-2:], mode="bilinear")
    return back.permute(0, 2, 3, 1).contiguous()


@after_decoding("frames_banded")
def banded(video: Tensor) -> Tensor:
    """Six bits a channel."""
    return (video * 63).round() / 63


@after_decoding("frames_interlaced")
def interlaced(video: Tensor) -> Tensor:
    """Odd lines come from the frame before."""
    video = video.clone()
    video[1:, 1::2] = video[:-1, 1::2].clone()
    return video


@after_decoding("frames_saturation")
def saturation(video: Tensor) -> Tensor:
    """Colours 5 % weaker."""
    grey = video.mean(dim=-1, keepdim=True)
    return grey + 0.95 * (video - grey)


@after_decoding("frames_one_nan")
def one_nan(video: Tensor) -> Tensor:
    """A single pixel is not a number."""
    video = video.clone()
    video[0, 0, 0, 0] = float("nan")
    return video


@after_decoding("frames_black")
def black(video: Tensor) -> Tensor:
    """All zeros."""
    return torch.zeros_like(video)


@after_decoding("frames_frozen")
def frozen(video: Tensor) -> Tensor:
    """The first frame throughout."""
    return video[:1].expand_as(video).clone()


@after_decoding("frames_cropped")
def cropped(video: Tensor) -> Tensor:
    """One pixel cut off at each edge, the rest stretched."""
    planes = video.permute(0, 3, 1, 2)[:, :, 1:-1, 1:-1]
    back = F.interpolate(planes, size=video.shape[1:3], mode="bilinear")
    return back.permute(0, 2, 3, 1).contiguous()
