"""The process-wide torch settings of one variant, in force only while it computes."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from backends.errors import MissingPrerequisite, Unsupported

_KERNELS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}


def resolve_device(name: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` means here. Raises `MissingPrerequisite`."""
    if name == "cuda" and not torch.cuda.is_available():
        raise MissingPrerequisite(
            "option device=cuda, but torch sees no CUDA device; run on a machine with one, install"
            " a CUDA build of torch, or set device=auto"
        )
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def check_runnable(device: torch.device, dtype: torch.dtype, attention: str) -> None:
    """Try the operations that a render needs in miniature. Raises `Unsupported` with the reason."""
    tokens = torch.ones(1, 2, 16, 64, device=device, dtype=dtype)
    clip = torch.ones(1, 2, 3, 4, 4, device=device, dtype=dtype)
    try:
        F.conv3d(clip, torch.ones(2, 2, 3, 3, 3, device=device, dtype=dtype))
        F.group_norm(tokens[:, :, 0], 2)
        with _kernel(attention):
            F.scaled_dot_product_attention(tokens, tokens, tokens)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise Unsupported(
            f"dtype={str(dtype).removeprefix('torch.')} with attention={attention} does not run on"
            f" {device.type} here: {reason}; choose another dtype, kernel or device"
        ) from error


@contextmanager
def in_force(transformer: nn.Module, attention: str, allow_tf32: bool) -> Generator[None]:
    """Without gradients, with TF32 and the transformer's attention kernel as asked.

    The kernel holds inside the transformer only: the text encoder's attention has a position bias,
    which flash kernels do not take. Everything is restored at the end.
    """
    # `torch.backends.cudnn` is a module whose attributes type checkers cannot see.
    matmul, cudnn = torch.backends.cuda.matmul, cast(Any, torch.backends.cudnn)
    before = matmul.allow_tf32, cudnn.allow_tf32
    kernels = ExitStack()

    def enter(*_: Any) -> None:
        kernels.enter_context(_kernel(attention))

    def leave(*_: Any) -> None:
        kernels.close()

    # `always_call` closes the context when the transformer raises, too.
    handles = [
        transformer.register_forward_pre_hook(enter),
        transformer.register_forward_hook(leave, always_call=True),
    ]
    matmul.allow_tf32 = cudnn.allow_tf32 = allow_tf32
    try:
        with torch.no_grad():
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
        for handle in handles:
            handle.remove()


def _kernel(attention: str) -> AbstractContextManager[Any]:
    if attention == "default":
        return nullcontext()
    return sdpa_kernel(_KERNELS[attention])
