"""A pipeline in float64 throughout, its scalar paths included: the oracle of its own mathematics.

A pipeline in float64 still computes much in float32, because its code says so: sinusoids of
timesteps, rotary tables, norms. Where a candidate computes one of these more exactly, the two differ by
the error of that path, at any dtype of the run. Here every float32 that code asks for by name is
float64, so that two pipelines of one mathematics agree whatever the dtypes of their scalar paths. A
dtype below float32 that code asks for by name stays: it is no rounding that float32 makes.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_FLOAT_METHOD: Any = Tensor.float


class _Float32IsFloat64(TorchFunctionMode):
    """Within it, whoever asks torch for float32 gets float64."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is _FLOAT_METHOD:
            return args[0].double()
        lifted = {name: _lift(value) for name, value in (kwargs or {}).items()}
        return func(*map(_lift, args), **lifted)


def _lift(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


@contextmanager
def in_float64(roots: Sequence[nn.Module]) -> Generator[None]:
    """Compute `roots`, and what is around them in their pipeline, in float64 within the block.

    Their weights are widened in place and put back, so memory for a second copy of twice the size is
    needed unless they were opened in float64.
    """
    tensors = [t for root in roots for t in (*root.parameters(), *root.buffers())]
    kept = [(tensor, tensor.data) for tensor in tensors if tensor.dtype == torch.float32]
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        for tensor, data in kept:
            tensor.data = data.double()
        with _Float32IsFloat64():
            yield
    finally:
        torch.set_default_dtype(default)
        for tensor, data in kept:
            tensor.data = data
