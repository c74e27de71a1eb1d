"""Between the latent video and the tokens: patch embedding on the way in, final layer on the way
out.

Both are mixins of SAT's `BaseModel`. CogVideoX 1.0 has 2-D patches (`sat/dit_video_concat.py` at tag
v1.0), 1.5 has 3-D ones, embedded by a linear layer (the same file on the main branch).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from backends.sat.stack import BaseMixin


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift, with x (B, n, D) and shift, scale (B, D)."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


@dataclass(frozen=True)
class Grid:
    """Number of patches along time, height and width."""

    frames: int
    height: int
    width: int

    @property
    def size(self) -> int:
        """Number of patches in the video."""
        return self.frames * self.height * self.width


@dataclass(frozen=True)
class Patch:
    """Size of a patch; `time` is None for the 2-D patches of CogVideoX 1.0."""

    time: int | None
    side: int

    def grid(self, frames: int, height: int, width: int) -> Grid:
        """The patches of a latent video."""
        return Grid(frames // (self.time or 1), height // self.side, width // self.side)

    @property
    def size(self) -> int:
        """Latent positions in one patch."""
        return (self.time or 1) * self.side**2


class PatchEmbedding(BaseMixin):
    """Projects the text (B, L, text_size) and the patches of images (B, T, C, H, W) to tokens.

    Tokens (B, L + t h w, D) hold the text first, then the patches in time, height, width order.
    """

    def __init__(
        self, in_channels: int, hidden_size: int, patch: Patch, text_hidden_size: int
    ) -> None:
        super().__init__()
        self._patch = patch
        self.proj: nn.Module = (
            nn.Conv2d(in_channels, hidden_size, kernel_size=patch.side, stride=patch.side)
            if patch.time is None
            else nn.Linear(in_channels * patch.size, hidden_size)
        )
        self.text_proj = nn.Linear(text_hidden_size, hidden_size)

    def reinit(self, parent_model: nn.Module | None = None) -> None:
        """Drop SAT's word embedding, which tokens made of patches do not need."""
        del self.transformer.word_embeddings

    def word_embedding_forward(self, input_ids: Tensor, **kwargs: Any) -> Tensor:
        """SAT hook: tokens from `images` and `encoder_outputs` (the text)."""
        images: Tensor = kwargs["images"]
        if self._patch.time is None:
            embedded = self.proj(images.reshape(-1, *images.shape[2:]))
            patches = rearrange(embedded, "(b t) d h w -> b (t h w) d", b=images.shape[0])
        else:
            values = rearrange(
                images,
                "b (t o) c (h p) (w q) -> b (t h w) (c o p q)",
                o=self._patch.time,
                p=self._patch.side,
                q=self._patch.side,
            )
            patches = self.proj(values)
        text = self.text_proj(kwargs["encoder_outputs"])
        return torch.cat((text, patches), dim=1).contiguous()


class FinalLayer(BaseMixin):
    """Turns the patch tokens back into a latent video (B, T, C, H, W)."""

    def __init__(
        self,
        hidden_size: int,
        time_embed_dim: int,
        patch: Patch,
        out_channels: int,
        affine: bool,
    ) -> None:
        super().__init__()
        self._patch = patch
        # eps 1e-6 here and 1e-5 in Diffusers' `norm_out`; every other norm of the two agrees.
        self.norm_final = nn.LayerNorm(hidden_size, eps=1e-6, elementwise_affine=affine)
        self.linear = nn.Linear(hidden_size, patch.size * out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(time_embed_dim, 2 * hidden_size))

    def final_forward(self, logits: Tensor, **kwargs: Any) -> Tensor:
        """SAT hook: from all tokens to the latent video of `grid`."""
        grid: Grid = kwargs["grid"]
        patches = logits[:, kwargs["text_length"] :]
        shift, scale = self.adaLN_modulation(kwargs["emb"]).chunk(2, dim=1)
        values = self.linear(modulate(self.norm_final(patches), shift, scale))
        return rearrange(
            values,
            "b (t h w) (c o p q) -> b (t o) c (h p) (w q)",
            h=grid.height,
            w=grid.width,
            o=self._patch.time or 1,
            p=self._patch.side,
            q=self._patch.side,
        )
