"""Where a patch is in the video: the sin-cos 3-D embedding (2B) and the rotary 3-D embedding (5B).

Both are mixins of SAT's `BaseModel`. Tables are computed for the latent grid of the model's config;
neither SAT model can render another grid (`sat/dit_video_concat.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat
from numpy.typing import NDArray
from torch import Tensor, nn

from backends.sat.stack import BaseMixin, default_attention

_WAVELENGTH = 10000.0


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


def _sin_cos(width: int, positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Embed positions (M,) as (M, width): sines of p / 10000^(2k/width), then the cosines."""
    frequencies = 1.0 / _WAVELENGTH ** (np.arange(width // 2, dtype=np.float64) / (width / 2.0))
    angles = np.outer(positions, frequencies)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sin_cos_table(
    hidden_size: int, grid: Grid, interpolation: tuple[float, float, float]
) -> NDArray[np.float64]:
    """Sin-cos embedding (patches, hidden_size), patches in time, height, width order.

    A quarter of the channels encodes time, then three eighths each width and height, in this order
    (width before height). Positions are divided, in float32, by `interpolation` (time, height,
    width). `hidden_size` must be divisible by 16.
    """
    time, height, width = (
        (np.arange(n, dtype=np.float32) / scale).astype(np.float64)
        for n, scale in zip((grid.frames, grid.height, grid.width), interpolation, strict=True)
    )
    spatial = hidden_size // 4 * 3 // 2
    in_time = _sin_cos(hidden_size // 4, time)
    in_height = _sin_cos(spatial, height)
    in_width = _sin_cos(spatial, width)
    shape = (grid.frames, grid.height, grid.width, -1)
    parts = [
        np.broadcast_to(in_time[:, None, None, :], (*shape[:3], in_time.shape[1])),
        np.broadcast_to(in_width[None, None, :, :], (*shape[:3], spatial)),
        np.broadcast_to(in_height[None, :, None, :], (*shape[:3], spatial)),
    ]
    return np.concatenate(parts, axis=-1).reshape(grid.size, hidden_size)


class SinCosPositions(BaseMixin):
    """Adds the sin-cos table to the token embeddings; text tokens get zeros.

    The table is a frozen parameter (1, text_length + patches, hidden_size) that checkpoints hold.
    Shorter videos take its head, which is right because time is the slowest index.
    """

    def __init__(
        self,
        grid: Grid,
        hidden_size: int,
        text_length: int,
        interpolation: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self._grid = grid
        self._interpolation = interpolation
        length = text_length + grid.size
        self.pos_embedding = nn.Parameter(torch.zeros(1, length, hidden_size), requires_grad=False)

    def reinit(self, parent_model: nn.Module | None = None) -> None:
        """Fill in the table; SAT calls this when the mixin is added."""
        del self.transformer.position_embeddings
        width = self.pos_embedding.shape[-1]
        table = torch.from_numpy(sin_cos_table(width, self._grid, self._interpolation)).float()
        self.pos_embedding.data[:, -self._grid.size :].copy_(table)

    def position_embedding_forward(self, position_ids: Tensor, **kwargs: Any) -> Tensor:
        """SAT hook: what is added to the embeddings of text and patches."""
        return self.pos_embedding[:, : kwargs["text_length"] + kwargs["seq_length"]]


def rotary_angles(head_size: int, grid: Grid) -> Tensor:
    """Rotation angles (frames, height, width, head_size) in float32, each written twice.

    A quarter of the head encodes time and three eighths each height and width; channel pair k of a
    part of width d turns by position / 10000^(2k/d).
    """
    sizes = (head_size // 4, head_size // 8 * 3, head_size // 8 * 3)
    shape = (grid.frames, grid.height, grid.width)
    parts: list[Tensor] = []
    for axis, (count, size) in enumerate(zip(shape, sizes, strict=True)):
        powers = torch.arange(0, size, 2)[: size // 2].float() / size
        frequencies = 1.0 / (_WAVELENGTH**powers)
        angles = torch.arange(count, dtype=torch.float32)[:, None] * frequencies[None, :]
        view = [1, 1, 1, size]
        view[axis] = count
        parts.append(repeat(angles, "n k -> n (k r)", r=2).view(view).expand(*shape, size))
    return torch.cat(parts, dim=-1).contiguous()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each channel pair (a, b) of x (B, heads, patches, head_size) to (a c - b s, b c + a
    s)."""
    pairs = rearrange(x, "... (d r) -> ... d r", r=2)
    first, second = pairs.unbind(dim=-1)
    turned = rearrange(torch.stack((-second, first), dim=-1), "... d r -> ... (d r)")
    return x * cos + turned * sin


class RotaryPositions(BaseMixin):
    """Rotates queries and keys of the patches, not of the text, before SAT's attention kernel.

    The tables are buffers, so that they follow the model's dtype and lie in its checkpoints, as
    in CogVideo v1.0: a 5B checkpoint saved in bfloat16 carries bfloat16 tables, also into a
    float32 run.
    """

    def __init__(self, grid: Grid, head_size: int, text_length: int) -> None:
        super().__init__()
        self._text_length = text_length
        angles = rearrange(rotary_angles(head_size, grid), "t h w d -> (t h w) d")
        self.register_buffer("freqs_sin", angles.sin())
        self.register_buffer("freqs_cos", angles.cos())

    def reinit(self, parent_model: nn.Module | None = None) -> None:
        """Zero SAT's learned position embedding, which nothing reads but checkpoints hold."""
        nn.init.zeros_(self.transformer.position_embeddings.weight)

    def position_embedding_forward(self, position_ids: Tensor, **kwargs: Any) -> None:
        """SAT hook: nothing is added to the embeddings."""

    def attention_fn(
        self, query_layer: Tensor, key_layer: Tensor, value_layer: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """SAT hook: attention over (B, heads, text + patches, head_size)."""
        return default_attention()(
            self._rotate_patches(query_layer),
            self._rotate_patches(key_layer),
            value_layer,
            *args,
            **kwargs,
        )

    def _rotate_patches(self, x: Tensor) -> Tensor:
        text, patches = x[:, :, : self._text_length], x[:, :, self._text_length :]
        count = patches.shape[2]
        cos, sin = (
            table[:count].to(x.dtype)
            for table in (self.get_buffer("freqs_cos"), self.get_buffer("freqs_sin"))
        )
        return torch.cat((text, rotate(patches, cos, sin)), dim=2)
