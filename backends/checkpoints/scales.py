"""Scaled eight-bit weights: a float8 or int8 tensor beside the scales that belong to it.

    <layer>.scale_weight       ComfyUI; one factor
    <layer>.weight_scale       LTX-2, LightX2V, compressed-tensors; one factor, or one a row
    <layer>.weight_scale_inv   DeepSeek; one factor a block of rows and columns
    <layer>.scale              others

The weight is the stored value times its scale, `_inv` included. Without it the tensor is another model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from backends.checkpoints.tensors import Loader, dtype_name
from backends.errors import CheckpointError

SUFFIXES = (".scale_weight", ".weight_scale", ".weight_scale_inv", ".scale")
_MARK = "scaled_fp8"
"""An empty tensor by which ComfyUI tells that a file has scales; they tell it themselves."""

EIGHT_BITS = frozenset(
    {"float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "int8"}
)

SCALE_BLOCK = 128
"""Rows and columns of a block in DeepSeek's format, whose last block may be cut off."""


@dataclass(frozen=True)
class Scaled:
    """Loads a weight with its scale applied, in float32. `raw` loads what is stored; `scale_name` is
    the tensor of the scale."""

    raw: Loader
    scale: Loader
    name: str
    scale_name: str

    def __call__(self) -> Tensor:
        """The weight. Raises `CheckpointError` where the scale has no shape that fits."""
        raw, scale = self.raw().float(), self.scale().float()
        return raw * _spread(scale, raw.shape, self.scale_name, self.name)


def apply_scales(loaders: Mapping[str, Loader]) -> dict[str, Loader]:
    """`loaders` with every scale applied to its weight and no longer a tensor of its own.

    A scale beside a weight of more than eight bits belongs to nothing and stays, as a stray tensor.
    """
    found = dict(loaders)
    for name in loaders:
        suffix = next((s for s in SUFFIXES if name.endswith(s)), None)
        weight = f"{name.removesuffix(suffix)}.weight" if suffix else ""
        if weight not in loaders or isinstance(found[weight], Scaled):
            continue
        if dtype_name(loaders[weight]()) in EIGHT_BITS:
            found[weight] = Scaled(loaders[weight], found.pop(name), weight, name)
    if any(isinstance(load, Scaled) for load in found.values()):
        found = {name: load for name, load in found.items() if name.split(".")[-1] != _MARK}
    return found


def _spread(scale: Tensor, shape: torch.Size, name: str, weight: str) -> Tensor:
    """`scale` so that it multiplies a tensor of `shape`: one factor, one a row, or one a block."""
    if scale.numel() == 1:
        return scale.reshape(())
    rows = shape[0] if shape else 0
    if scale.numel() == rows and scale.shape[0] == rows:
        return scale.reshape(rows, *(1 for _ in shape[1:]))
    if scale.ndim == len(shape) == 2 and all(scale.shape):
        even = [-(-extent // count) for extent, count in zip(shape, scale.shape, strict=True)]
        fitting = (
            sizes
            for sizes in ((SCALE_BLOCK, SCALE_BLOCK), even)
            if [-(-n // size) for n, size in zip(shape, sizes, strict=True)] == list(scale.shape)
        )
        if (sizes := next(fitting, None)) is not None:
            wide = scale.repeat_interleave(sizes[0], 0)[: shape[0]]
            return wide.repeat_interleave(sizes[1], 1)[:, : shape[1]]
    raise CheckpointError(
        f"{name} has shape {tuple(scale.shape)}, which fits no row, column block or whole of {weight}"
        f" {tuple(shape)}; scale and weight come from different files"
    )
