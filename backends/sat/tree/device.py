"""CogVideo's code on a machine, or a variant, without CUDA: its device literals read as the CPU."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch.overrides import TorchFunctionMode


class _CpuForCuda(TorchFunctionMode):
    """Every torch call runs with `cuda` in its arguments replaced, and `Tensor.cuda` is `.cpu`."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> torch.Tensor:
        if func is torch.Tensor.cuda:
            return cast(torch.Tensor, args[0].cpu())
        return func(
            *(_on_cpu(value) for value in args),
            **{name: _on_cpu(value) for name, value in (kwargs or {}).items()},
        )


def _on_cpu(value: Any) -> Any:
    if isinstance(value, str) and value.partition(":")[0] == "cuda":
        return "cpu"
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("cpu")
    return value


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which CogVideo's code computes on `device`; on CUDA it is left as it is."""
    return nullcontext() if device.type == "cuda" else _CpuForCuda()
