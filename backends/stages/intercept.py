"""Serve a stack's own `torch.randn*` calls from the noise tape, and notice any that slip through.

torch's normal-drawing functions are replaced for the duration of a render; calls that carry the
tape's layout permutation (the VAE's channels-first, say) are the adapter's business, so the tape is
asked for the shape as called. A call that reaches a generator some other way leaves a trace: the
state of torch's global generators is compared before and after, and a change is a `TapeError`.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from backends.errors import TapeError
from backends.noise import NoiseTape


def _generator_states() -> list[torch.Tensor]:
    states = [torch.get_rng_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states += torch.cuda.get_rng_state_all()
    return states


def _shape(size: tuple[Any, ...]) -> tuple[int, ...]:
    first = size[0] if len(size) == 1 else size
    return tuple(first) if isinstance(first, (tuple, list)) else tuple(size)


@contextmanager
def draws_from(tape: NoiseTape) -> Generator[None]:
    """Within the block, every standard-normal draw of torch comes from `tape`.

    Covers `torch.randn`, `torch.randn_like`, `torch.normal` and `Tensor.normal_`. The result has the
    dtype and device the caller asked for, rounded from the tape's float32. The tape notes whether the
    caller named a generator or left it to the global one. Raises `TapeError` when
    the tape refuses a draw, or when a global generator advanced although nothing may draw from it.
    """

    def serve(shape: tuple[int, ...], dtype: torch.dtype, device: Any, asked: Any) -> torch.Tensor:
        generator = "global" if asked.get("generator") is None else "passed"
        return torch.from_numpy(tape.draw(shape, generator)).to(device=device, dtype=dtype)

    def randn(*size: Any, **kwargs: Any) -> torch.Tensor:
        shape = _shape(size) if size else _shape((kwargs["size"],))
        dtype = kwargs.get("dtype") or torch.get_default_dtype()
        return serve(shape, dtype, kwargs.get("device"), kwargs)

    def randn_like(x: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        dtype = kwargs.get("dtype") or x.dtype
        return serve(tuple(x.shape), dtype, kwargs.get("device") or x.device, kwargs)

    def normal_(
        x: torch.Tensor, mean: float = 0.0, std: float = 1.0, **kwargs: Any
    ) -> torch.Tensor:
        return x.copy_(serve(tuple(x.shape), torch.float32, x.device, kwargs) * std + mean)

    def normal(mean: Any, std: Any = 1.0, size: Any = None, **kwargs: Any) -> torch.Tensor:
        like = next((v for v in (mean, std) if isinstance(v, torch.Tensor)), None)
        shape = tuple(size) if like is None else tuple(like.shape)
        dtype = kwargs.get("dtype") or (torch.float32 if like is None else like.dtype)
        device = kwargs.get("device") or (None if like is None else like.device)
        return serve(shape, dtype, device, kwargs) * std + mean

    before = _generator_states()
    with (
        patch.object(torch, "randn", randn),
        patch.object(torch, "randn_like", randn_like),
        patch.object(torch, "normal", normal),
        patch.object(torch.Tensor, "normal_", normal_),
    ):
        yield
    after = _generator_states()
    if any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)):
        raise TapeError(
            "the stack drew from torch's global generator past the tape during this render; find the"
            " call (a dropout in training mode, a compiled kernel?) and draw through torch.randn"
        )
