"""Between pixels and latents, as CogVideo's `sample_video.py` does it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from backends.base import Case
from backends.sat.picture import load_picture
from backends.sat.tree.engine import TreeEngine
from backends.sat.vae import decode_pieces
from backends.stages.pictures import read_picture


def encode_picture(engine: TreeEngine, case: Case, scale: float | None) -> Tensor:
    """Latents (1, 1, C, H, W) of the case's picture, times `scale`; None does what CogVideo does.

    Tag v1.0's script has a function that fits the picture to the video, which is used. The main
    branch chooses the video's size by the picture instead; here the case does.
    """
    native, patch_size_t = engine.native, engine.config.transformer.patch_size_t
    if patch_size_t is None:
        pixels = to_tensor(read_picture(case.image or ""))[None]
        size = (case.height, case.width)
        fitted = engine.code.sample_video.resize_for_rectangle_crop(
            pixels, size, reshape_mode="center"
        )
        picture = fitted[None] * 2.0 - 1.0
    else:
        picture = load_picture(case.image or "", case.height, case.width, patch_size_t)
    video = picture.to(engine.device).unsqueeze(2).to(engine.dtype)
    if scale is not None and scale != engine.config.image_scale:
        latents = scale * native.first_stage_model.encode(video)
    else:
        latents = native.encode_first_stage(video, None)
        if patch_size_t is not None:
            latents = latents / native.scale_factor
    return latents.permute(0, 2, 1, 3, 4).contiguous()


def decode(engine: TreeEngine, latents: Tensor, lone_first: bool) -> Tensor:
    """Frames (T, H, W, 3) float32 in [0, 1], on the CPU, of latents (1, T, C, H, W).

    The main branch's script calls `decode_first_stage`. Tag v1.0's decodes in pieces, 3 latent
    frames and then 2 each, by a loop of its own that cannot be called; that loop is repeated here.
    (The engine's `decode_first_stage` of v1.0 decodes the whole at once and gives other frames,
    since its group norms see other statistics.) `lone_first`: see `SatOptions.first_frame`.
    """
    native = engine.native
    video = latents.permute(0, 2, 1, 3, 4).contiguous()
    try:
        if engine.code.generation == "1.5":
            with _first_frame(native.first_stage_model, lone_first):
                video = native.decode_first_stage(video)
        else:
            video = _by_pieces(native, 1.0 / native.scale_factor * video)
    except BaseException:
        _forget(native.first_stage_model)
        raise
    frames = torch.clamp((video.float() + 1.0) / 2.0, min=0.0, max=1.0)
    return frames[0].permute(1, 2, 3, 0).contiguous().cpu()


def _by_pieces(native: Any, latents: Tensor) -> Tensor:
    last = latents.shape[2]
    pieces = [
        native.first_stage_model.decode(
            latents[:, :, start:end].contiguous(), clear_fake_cp_cache=end == last
        )
        for start, end in decode_pieces(last)
    ]
    return torch.cat(pieces, dim=2)


def _first_frame(vae: Any, lone: bool) -> AbstractContextManager[Any]:
    """The main branch gives the first latent frame one pixel frame only where its VAE believes to
    be split over processes; with one process, believing so changes nothing else."""
    return patch.object(vae, "cp_size", 2) if lone else nullcontext()


def _forget(vae: Any) -> None:
    """Drop what an interrupted piece left for the next one."""
    for module in vae.modules():
        if hasattr(module, "cache_padding"):
            module.cache_padding = None
