"""The conditioning picture as SAT's script prepares it (`sat/sample_video.py`)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from backends.stages.pictures import read_picture


def load_picture(given: str, height: int, width: int, patch_size_t: int | None) -> Tensor:
    """The picture that a case names as (1, 3, height, width) float32 in [-1, 1].

    1.0 (`patch_size_t` None) scales it by a bicubic filter until it covers the video and cuts the
    middle out; 1.5 scales it to the video's size by Pillow's Lanczos filter, as Diffusers does for
    both. (CogVideo's 1.5 script chooses the video's size by the picture's shape; here the case does.)
    A picture of the video's size is left as it is by all. Raises `InvalidRequest` if there is none.
    """
    picture = read_picture(given)
    if patch_size_t is None:
        return _covering(_pixels(picture), height, width) * 2.0 - 1.0
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return _pixels(picture) * 2.0 - 1.0


def _pixels(picture: Image.Image) -> Tensor:
    """(1, 3, H, W) float32 in [0, 1]."""
    values = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
    return values.float().div(255)[None]


def _covering(pixels: Tensor, height: int, width: int) -> Tensor:
    rows, columns = pixels.shape[-2:]
    if columns / rows > width / height:
        size = (height, int(columns * height / rows))
    else:
        size = (int(rows * width / columns), width)
    if size != (rows, columns):
        pixels = F.interpolate(
            pixels, size=size, mode="bicubic", align_corners=False, antialias=True
        )
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return pixels[..., top : top + height, left : left + width]
