"""Healthy members: legitimate alternatives of an opened pipeline, what "no bug" looks like.

Each is a context in which the same pipeline computes the same mathematics with other roundings:

    plain          as it is
    math           torch's reference attention kernel
    threads:N      N threads, hence another order of summation
    split          the guidance branches one after the other instead of as one batch
    channels_last  videos in the other memory format, for which torch has other kernels
    norm_eps:X     the transformer's last norm with epsilon X, as another stack has it on purpose
    jitter:N       rounding noise number N on every leaf module's output
    float64        transformer and VAE in float64, scalar paths included; an oracle more than a member
                   (`backends.stages.exact_arithmetic`)

The jitter stands for the roundings that another kernel, library or machine would make. A result that
was rounded already cannot be dithered before its cast, so a representable y becomes y + s ulp(y) with
s = -1, 0, +1 and P(s != 0) = 1/12: the variance of one more rounding error, U(-1/2, 1/2) ulp.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from backends.base import Pipeline
from backends.errors import InvalidRequest
from backends.stages.exact_arithmetic import in_float64

COMPONENTS = ("text_encoder", "vae", "transformer")
LAST_NORM = "transformer.norm_out.norm"

ROUNDING_VARIANCE = 1 / 12
"""Variance of U(-1/2, 1/2), in squared ulps."""


@contextmanager
def healthy(pipeline: Pipeline, member: str) -> Generator[None]:
    """Compute as `member` does within the block, or as both of "a+b" do. Raises `InvalidRequest` for an
    unknown one."""
    outer, both, inner = member.partition("+")
    if both:
        with healthy(pipeline, outer), healthy(pipeline, inner):
            yield
        return
    kind, _, number = member.partition(":")
    if kind == "plain":
        yield
    elif kind == "math":
        with sdpa_kernel(SDPBackend.MATH):
            yield
    elif kind == "threads":
        before = torch.get_num_threads()
        torch.set_num_threads(int(number))
        try:
            yield
        finally:
            torch.set_num_threads(before)
    elif kind == "split":
        with _split(pipeline.modules()["transformer"]):
            yield
    elif kind == "channels_last":
        with _channels_last(pipeline):
            yield
    elif kind == "norm_eps":
        with patch.object(pipeline.modules()[LAST_NORM], "eps", float(number)):
            yield
    elif kind == "jitter":
        with _jitter(pipeline, int(number)):
            yield
    elif kind == "float64":
        # The text encoder is left as it is: embeddings are given where this member is asked.
        modules = pipeline.modules()
        with in_float64([modules[name] for name in ("transformer", "vae") if name in modules]):
            yield
    else:
        raise InvalidRequest(
            f"unknown healthy member {member!r}; known: plain, math, threads:N, split,"
            " channels_last, norm_eps:X, jitter:N, float64"
        )


@contextmanager
def _split(transformer: nn.Module) -> Generator[None]:
    forward = transformer.forward

    def one(value: Any, index: int, batch: int) -> Any:
        batched = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == batch
        return value[index : index + 1] if batched else value

    def split(*args: Any, **kwargs: Any) -> Any:
        tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.ndim > 0]
        batch = tensors[0].shape[0]
        results = [
            forward(
                *(one(v, i, batch) for v in args),
                **{k: one(v, i, batch) for k, v in kwargs.items()},
            )
            for i in range(batch)
        ]
        if isinstance(results[0], tuple):
            return tuple(torch.cat(parts) for parts in zip(*results, strict=True))
        return torch.cat(results)

    with patch.object(transformer, "forward", split):
        yield


@contextmanager
def _channels_last(pipeline: Pipeline) -> Generator[None]:
    """The VAE's leaf modules are given their videos in the channels-last format: its group norms'
    kernel sums in another order, and was seen to err a hundred times more in float32."""

    def hook(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(
            value.contiguous(memory_format=torch.channels_last_3d)
            if isinstance(value, Tensor) and value.ndim == 5
            else value
            for value in args
        )

    with ExitStack() as stack:
        for module in _leaves(pipeline, ("vae",)):
            handle = cast(Any, module.register_forward_pre_hook(hook))
            stack.callback(handle.remove)
        yield


@contextmanager
def _jitter(pipeline: Pipeline, number: int) -> Generator[None]:
    generators: dict[torch.device, torch.Generator] = {}

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return None
        if output.device not in generators:
            fresh = torch.Generator(output.device)
            generators[output.device] = fresh.manual_seed(number)
        return dithered(output, generators[output.device])

    with ExitStack() as stack:
        for module in _leaves(pipeline, COMPONENTS):
            handle = cast(Any, module.register_forward_hook(hook))
            stack.callback(handle.remove)
        yield


def _leaves(pipeline: Pipeline, components: Sequence[str]) -> set[nn.Module]:
    modules = pipeline.modules()
    roots = [modules[name] for name in components if name in modules]
    return {m for root in roots for m in root.modules() if not list(m.children())}


def dithered(y: Tensor, generator: torch.Generator) -> Tensor:
    """y with the error of one more rounding in its own dtype; y of any shape, finite or not."""
    lot = torch.rand(y.shape, generator=generator, device=y.device)
    up, down = lot < ROUNDING_VARIANCE / 2, lot > 1 - ROUNDING_VARIANCE / 2
    exponent = torch.frexp(y.float()).exponent
    ulp = torch.ldexp(torch.ones_like(lot), exponent - 1) * torch.finfo(y.dtype).eps
    shift = (up.to(ulp.dtype) - down.to(ulp.dtype)) * ulp
    return torch.where(torch.isfinite(y), (y.float() + shift).to(y.dtype), y)
