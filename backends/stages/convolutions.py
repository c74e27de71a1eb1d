"""Convolutions at reduced precision on a CPU, computed as accelerators compute them.

Without bf16 instructions torch's own CPU kernels take about 230 times as long as in float32 (measured:
153 s against 0.66 s for one of the decoder's convolutions on a CPU with AVX2). So inputs and weights,
which the reduced dtype holds, are widened to float32, and the result is rounded once: float32
accumulation, as tensor cores do it. Every stack gets the same treatment; on other devices, and in
float32, nothing changes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_REDUCED = (torch.bfloat16, torch.float16)


def accumulate_in_float32(root: nn.Module) -> None:
    """Let every 2-D and 3-D convolution under `root` accumulate in float32 on a CPU. In place."""
    for module in root.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            _widen(module)


def _widen(module: nn.Conv2d | nn.Conv3d) -> None:
    convolve: Any = getattr(module, "_conv_forward")  # noqa: B009 - private in torch

    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if x.device.type != "cpu" or x.dtype not in _REDUCED:
            return convolve(x, weight, bias)
        wide: Tensor = convolve(x.float(), weight.float(), None if bias is None else bias.float())
        return wide.to(x.dtype)

    setattr(module, "_conv_forward", forward)  # noqa: B010
