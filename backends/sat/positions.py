"""Where a patch is in the video: the sin-cos 3-D embedding (2B) and the rotary 3-D embedding (5B).

All are mixins of SAT's `BaseModel`. For 1.0, tables are computed for the latent grid of the model's
config, and neither model can render another grid; the 1.5 table is cut to the video's own grid
(`sat/dit_video_concat.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat
from numpy.typing import NDArray
from torch import Tensor, nn

from backends.sat.patches import Grid
from backends.sat.stack import BaseMixin, default_attention

_WAVELENGTH = 10000.0


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


class _Rotary(BaseMixin):
    """Rotates queries and keys of the patches, not of the text, before SAT's attention kernel."""

    def attention_fn(
        self, query_layer: Tensor, key_layer: Tensor, value_layer: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """SAT hook: attention over (B, heads, text + patches, head_size)."""
        length, grid = int(kwargs["text_length"]), kwargs["grid"]
        query, key = (self.rotated(x, length, grid) for x in (query_layer, key_layer))
        return default_attention()(query, key, value_layer, *args, **kwargs)

    def rotated(self, x: Tensor, text_length: int, grid: Grid) -> Tensor:
        """x (B, heads, text + patches, head_size) with its patches rotated."""
        cos, sin = (table.to(x.dtype) for table in self.tables(grid))
        patches = rotate(x[:, :, text_length:], cos, sin)
        return torch.cat((x[:, :, :text_length], patches), dim=2)

    def tables(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """Cosines and sines (patches, head_size) of the patches of `grid`."""
        raise NotImplementedError


class RotaryPositions(_Rotary):
    """The rotary embedding of CogVideoX 1.0; image-to-video adds a learned embedding besides.

    The tables are buffers, so that they follow the model's dtype and lie in its checkpoints, as
    in CogVideo v1.0: a 5B checkpoint saved in bfloat16 carries bfloat16 tables, also into a
    float32 run. The learned embedding (1, text_length + patches, hidden_size) covers the text, too;
    shorter videos take its head.
    """

    def __init__(
        self, grid: Grid, head_size: int, text_length: int, learned_size: int | None
    ) -> None:
        super().__init__()
        angles = rearrange(rotary_angles(head_size, grid), "t h w d -> (t h w) d")
        self.register_buffer("freqs_sin", angles.sin())
        self.register_buffer("freqs_cos", angles.cos())
        self.pos_embedding = (
            None
            if learned_size is None
            else nn.Parameter(torch.zeros(1, text_length + grid.size, learned_size))
        )

    def reinit(self, parent_model: nn.Module | None = None) -> None:
        """Zero SAT's learned position embedding, which nothing reads but checkpoints hold."""
        nn.init.zeros_(self.transformer.position_embeddings.weight)

    def position_embedding_forward(self, position_ids: Tensor, **kwargs: Any) -> Tensor | None:
        """SAT hook: the learned embedding if there is one; otherwise nothing is added."""
        if self.pos_embedding is None:
            return None
        return self.pos_embedding[:, : kwargs["text_length"] + kwargs["seq_length"]]

    def tables(self, grid: Grid) -> tuple[Tensor, Tensor]:
        cos, sin = self.get_buffer("freqs_cos"), self.get_buffer("freqs_sin")
        return cos[: grid.size], sin[: grid.size]


class SlicedRotaryPositions(_Rotary):
    """The rotary embedding of CogVideoX 1.5, for every grid up to the table's.

    The main branch of CogVideo makes one float32 table for the largest grid (300 x 300 latents),
    outside the checkpoint, and cuts it to the video. Angles of the three axes do not depend on
    each other, so the cut is computed here directly, on the CPU as there, and the last one kept.
    """

    def __init__(self, head_size: int) -> None:
        super().__init__()
        self._head_size = head_size
        self._kept: tuple[Grid, torch.device, tuple[Tensor, Tensor]] | None = None

    def reinit(self, parent_model: nn.Module | None = None) -> None:
        """Zero SAT's learned position embedding, which nothing reads but checkpoints hold."""
        nn.init.zeros_(self.transformer.position_embeddings.weight)

    def position_embedding_forward(self, position_ids: Tensor, **kwargs: Any) -> None:
        """SAT hook: nothing is added to the embeddings."""

    def tables(self, grid: Grid) -> tuple[Tensor, Tensor]:
        device = self.transformer.position_embeddings.weight.device
        if self._kept is None or self._kept[:2] != (grid, device):
            angles = rearrange(rotary_angles(self._head_size, grid), "t h w d -> (t h w) d")
            self._kept = grid, device, (angles.cos().to(device), angles.sin().to(device))
        return self._kept[2]
