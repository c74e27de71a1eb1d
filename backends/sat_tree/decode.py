"""From final latents to frames, as CogVideo's `sample_video.py` does it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backends.sat.vae import decode_pieces
from backends.sat_tree.engine import TreeEngine


def decode(engine: TreeEngine, latents: Tensor) -> Tensor:
    """Frames (T, H, W, 3) float32 in [0, 1], on the CPU, of latents (1, T, C, H, W).

    Tag v1.0's script decodes in pieces, 3 latent frames and then 2 each, by a loop of its own that
    cannot be called; only that loop is repeated here. The engine's `decode_first_stage` of v1.0
    decodes the whole at once, which gives other frames (its group norms see other statistics).
    """
    native = engine.native
    scaled = 1.0 / native.scale_factor * latents.permute(0, 2, 1, 3, 4).contiguous()
    pieces = decode_pieces(scaled.shape[2])
    try:
        video = torch.cat(
            [
                native.first_stage_model.decode(
                    scaled[:, :, start:end].contiguous(),
                    clear_fake_cp_cache=end == scaled.shape[2],
                )
                for start, end in pieces
            ],
            dim=2,
        )
    except BaseException:
        _forget(native.first_stage_model)
        raise
    frames = torch.clamp((video.float() + 1.0) / 2.0, min=0.0, max=1.0)
    return frames[0].permute(1, 2, 3, 0).contiguous().cpu()


def _forget(vae: Any) -> None:
    """Drop what an interrupted piece left for the next one."""
    for module in vae.modules():
        if hasattr(module, "cache_padding"):
            module.cache_padding = None
