"""Tensors by name, loaded when asked for, and the digest that identifies one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from backends.base import NOT_FINITE

Loader = Callable[[], Tensor]


class LazyTensors(Mapping[str, Tensor]):
    """A mapping of names to tensors that reads each tensor anew whenever it is looked up.

    Going through `items()` therefore holds one tensor at a time, however large the checkpoint is.
    Lookup raises what the loader raises, `CheckpointError` for a damaged file.
    """

    def __init__(self, loaders: Mapping[str, Loader]) -> None:
        self._loaders = dict(loaders)

    def __getitem__(self, name: str) -> Tensor:
        return self._loaders[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaders)

    def __len__(self) -> int:
        return len(self._loaders)

    def loader(self, name: str) -> Loader:
        """The function that loads `name`. Raises `KeyError` for an unknown name."""
        return self._loaders[name]

    def prefixed(self, prefix: str) -> LazyTensors:
        """The same tensors with `prefix` before every name."""
        return LazyTensors({prefix + name: load for name, load in self._loaders.items()})


def held(tensor: Tensor) -> Loader:
    """A loader of a tensor that is at hand, or mapped, already."""
    return lambda: tensor


def dtype_name(tensor: Tensor) -> str:
    """The dtype without torch's prefix: "bfloat16"."""
    return str(tensor.dtype).removeprefix("torch.")


def digest(tensor: Tensor) -> str:
    """SHA-256 over dtype, shape and bytes of a tensor in row-major order, as 64 hex digits.

    Strides, device and storage do not count; the sign of zero and the payload of NaN do.
    """
    head = f"{dtype_name(tensor)} {tuple(tensor.shape)}\n"
    sha = hashlib.sha256(head.encode())
    sha.update(raw_bytes(tensor).numpy().data)
    return sha.hexdigest()


def raw_bytes(tensor: Tensor) -> Tensor:
    """The bytes of a tensor on any device, in row-major order: uint8 (bytes,) on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.stride(0) != 1:  # one expanded element counts as contiguous, and `view` refuses it
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8)


def weight_digest(tensor: Tensor) -> str:
    """`digest` of a weight as it is used, behind `NOT_FINITE` and a count where it holds what is not
    finite: NaN, or an infinity that no rounding to float16 can have made.

    It is said of the weight, as a case may never reach it, and a video does not say whose NaN it shows.
    """
    wrong = 0
    if tensor.is_floating_point():
        finite = tensor.float().isfinite() if tensor.element_size() == 1 else tensor.isfinite()
        wrong = int((tensor.isnan() if tensor.dtype == torch.float16 else ~finite).sum())
    return f"{NOT_FINITE}{wrong} of {tensor.numel()}, {digest(tensor)}" if wrong else digest(tensor)


def state_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and digests of all tensors, in the order of the names."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(f"{name} {digest(tensors[name])}\n".encode())
    return sha.hexdigest()
