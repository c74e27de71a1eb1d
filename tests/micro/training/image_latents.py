"""Training latents of the derived models: whole clips, and their first frames encoded alone.

An image-to-video pipeline encodes its picture as a video of one frame, which differs slightly from the
first latent of the clip: the VAE's group norms take their statistics over all frames of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.micro.training.clips import draw, scene, scene_from_middle
from tests.micro.training.stack import Vae

BATCH = 8


@dataclass(frozen=True)
class ImageLatents:
    """Encoded clips before the scaling factor.

    `clips` (N, T, C, H, W) and `images` (N, 1, C, H, W) float32; the first `whole` clips cross the
    frame, the others start in its middle, so that their picture does not tell the direction.
    """

    clips: Tensor
    images: Tensor
    captions: list[str]
    whole: int


@torch.no_grad()
def encode_with_images(
    vae: Vae, whole: int, from_middle: int, log: Callable[[str], None]
) -> ImageLatents:
    """Clips 0 to `whole` and as many from the middle as asked, 17 frames of 64x64, float32."""
    scenes = [scene(seed) for seed in range(whole)]
    scenes += [scene_from_middle(seed) for seed in range(from_middle)]
    clips: list[Tensor] = []
    images: list[Tensor] = []
    for start in range(0, len(scenes), BATCH):
        drawn = torch.stack([torch.from_numpy(draw(one)) for one in scenes[start : start + BATCH]])
        video = drawn.permute(0, 4, 1, 2, 3) * 2 - 1
        clips.append(vae.encode(video).latent_dist.mode().permute(0, 2, 1, 3, 4))
        images.append(vae.encode(video[:, :, :1]).latent_dist.mode().permute(0, 2, 1, 3, 4))
        if (start + BATCH) % 200 == 0:
            log(f"encoded {start + BATCH} of {len(scenes)} clips")
    return ImageLatents(torch.cat(clips), torch.cat(images), [one.caption for one in scenes], whole)
