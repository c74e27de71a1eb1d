"""SAT tensors without a counterpart in Diffusers: what they hold, and why they can be left out.

Position tables follow from the configuration. SAT v1.0 stores them, its 1.5 code does not; Diffusers
computes the sin-cos table when the model is built (a non-persistent buffer) and the rotary table at
every call. On the way to Diffusers they are checked against the configuration and dropped; on the
way to SAT they are computed by SAT's formulas, in float32 unless the model came from SAT with another
dtype. SAT rounds them to its run's dtype on loading, so rounding them here would only spoil a run in
float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backends.checkpoints.report import Notice
from backends.checkpoints.sat.config import TransformerConfig
from backends.checkpoints.tensors import dtype_name
from backends.errors import CheckpointError

_WAVELENGTH = 10000.0


@dataclass(frozen=True)
class OneSided:
    """A tensor that only SAT stores; `value` computes it in float32, `read` says if it is used."""

    name: str
    value: Callable[[], Tensor]
    why: str
    read: bool = True

    def check(self, stored: Tensor, where: str) -> Notice:
        """Say why `stored` is left out; raise `CheckpointError` if that would lose something."""
        if not self.read:
            return Notice("dropped", self.name, self.why)
        expected = self.value().to(stored.dtype)
        # One rounding step: sine and cosine differ by an ulp between maths libraries.
        step = torch.finfo(stored.dtype).eps
        if stored.shape != expected.shape:
            problem = f"shape {tuple(stored.shape)}, expected {tuple(expected.shape)}"
        else:
            gap = float((stored.double() - expected.double()).abs().max())
            if gap <= step:
                exact = "equal to the bit" if torch.equal(stored, expected) else f"within {gap:.1e}"
                why = f"{self.why}; checked in {dtype_name(stored)}: {exact}"
                return Notice("dropped", self.name, why)
            problem = f"values up to {gap:.3g} away"
        raise CheckpointError(
            f"{where}: {self.name} is not the table that the model's YAML implies ({problem})."
            " Diffusers cannot store it and would compute another one, so converting would change"
            " the model. Use the YAML that this checkpoint was trained with"
        )

    def rebuild(self, dtype: str) -> tuple[Tensor, Notice]:
        """The tensor in `dtype` ("float32", ...), and what to report about it."""
        why = f"{self.why}; computed and written in {dtype}"
        return self.value().to(getattr(torch, dtype)), Notice("rebuilt", self.name, why)


def one_sided(config: TransformerConfig) -> tuple[OneSided, ...]:
    """The tensors that SAT stores for this transformer and Diffusers does not."""
    if config.positions == "sin_cos":
        why = "Diffusers computes this sin-cos table from its configuration and does not store it"
        return (OneSided("mixins.pos_embed.pos_embedding", lambda: _sin_cos(config), why),)
    unread = OneSided(
        "transformer.position_embeddings.weight",
        lambda: torch.zeros(config.max_sequence_length, config.hidden_size),
        "made by SAT's BaseModel but read by nothing, because the rotary mixin takes its place;"
        " rebuilt as zeros so that SAT finds no key missing",
        read=False,
    )
    if config.patch_size_t is not None:
        return (unread,)
    why = "Diffusers computes the rotary table at every call, in float32, and does not store it"
    return (
        OneSided("mixins.pos_embed.freqs_sin", lambda: _rotary_angles(config).sin(), why),
        OneSided("mixins.pos_embed.freqs_cos", lambda: _rotary_angles(config).cos(), why),
        unread,
    )


def _grid(config: TransformerConfig) -> tuple[int, int, int]:
    return (
        (config.num_frames - 1) // config.time_compressed_rate + 1,
        config.latent_height // config.patch_size,
        config.latent_width // config.patch_size,
    )


def _sin_cos(config: TransformerConfig) -> Tensor:
    """Sin-cos positions (1, text_length + patches, hidden_size), float32; zeros for the text."""
    patches = sin_cos(_grid(config), config.hidden_size, config.interpolation)
    text = torch.zeros(config.text_length, config.hidden_size)
    return torch.cat((text, patches)).unsqueeze(0)


def sin_cos(
    grid: tuple[int, int, int], hidden_size: int, interpolation: tuple[float, float, float]
) -> Tensor:
    """Sin-cos positions (patches, `hidden_size`), float32, of a `grid` of patches in time, height,
    width.

    A quarter of the channels encodes time, then three eighths each width and height, each as sines
    then cosines of p / 10000^(2k/d). `interpolation` divides positions along the same three axes, in
    float32; the rest is float64.
    """
    quarter = hidden_size // 4
    in_time, in_height, in_width = (
        _waves(np.arange(n, dtype=np.float32) / scale, size)
        for n, scale, size in zip(
            grid, interpolation, (quarter, quarter * 3 // 2, quarter * 3 // 2), strict=True
        )
    )
    parts = (in_time[:, None, None], in_width[None, None, :], in_height[None, :, None])
    full = [np.broadcast_to(part, (*grid, part.shape[-1])) for part in parts]
    return torch.from_numpy(np.concatenate(full, axis=-1)).float().flatten(0, 2)


def _waves(positions: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    angles = np.outer(
        positions.astype(np.float64),
        1.0 / _WAVELENGTH ** (np.arange(size // 2, dtype=np.float64) / (size / 2.0)),
    )
    return np.concatenate((np.sin(angles), np.cos(angles)), axis=1)


def _rotary_angles(config: TransformerConfig) -> Tensor:
    """Rotary angles (patches, head_size), float32, patches in time, height, width order.

    A quarter of the head encodes time and three eighths each height and width; channels 2k and 2k+1
    of a part of size d turn by p / 10000^(2k/d).
    """
    grid = _grid(config)
    sizes = (config.head_size // 4, config.head_size // 8 * 3, config.head_size // 8 * 3)
    parts: list[Tensor] = []
    for axis, (count, size) in enumerate(zip(grid, sizes, strict=True)):
        speeds = 1.0 / _WAVELENGTH ** (torch.arange(0, size, 2)[: size // 2].float() / size)
        angles = torch.outer(torch.arange(count, dtype=torch.float32), speeds)
        shape = [1, 1, 1, size]
        shape[axis] = count
        parts.append(angles.repeat_interleave(2, dim=-1).view(shape).expand(*grid, size))
    return torch.cat(parts, dim=-1).flatten(0, 2)
