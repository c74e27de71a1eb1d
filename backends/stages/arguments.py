"""What a pipeline hands to its components: every argument of every call, by name.

A wrong rotary table, mask or timestep is the caller's fault, and shows in the component's output only.
So arguments are recorded as the component receives them: dtype and shape, values where they are few,
else a digest and a sketch. Tuples and mappings are taken apart (`image_rotary_emb[0]`).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from backends.base import Pipeline
from backends.checkpoints.tensors import digest
from backends.stages.blocks_at_work import Blocks, Counter, counting
from backends.stages.trace import sketch

MOST_VALUES = 4096
"""A tensor of at most this many values is kept whole: its first entry that differs can be named."""

MOST_ROWS = 4
"""A first axis up to this long is the guidance batch: each of its rows is kept apart."""

CARRIED = 2e-2
"""Relative distance up to which an argument is what it was made from, rounded to bfloat16 or float16."""

BESIDE = "beside the latents"
"""Ends the name of the part of an argument that was joined to the latents: a picture's."""


@dataclass(frozen=True)
class Call:
    """One call of `component` (`transformer`, `vae.decode`, ...) with its flattened arguments, and which
    of its `blocks` worked, where they are counted."""

    component: str
    arguments: Mapping[str, Any]
    blocks: Blocks | None = None


@contextmanager
def watching(pipeline: Pipeline) -> Generator[list[Call]]:
    """Record the calls of every component within the block.

    A component that encodes and decodes is watched at these two methods, any other at its forward,
    after every hook that its owner put on it.
    """
    calls: list[Call] = []
    with ExitStack() as stack:
        for name, root in pipeline.modules().items():
            if "." in name:
                continue
            methods = [m for m in ("encode", "decode") if callable(getattr(root, m, None))]
            for method in methods:
                native = getattr(root, method)
                seen = _recorded(calls, f"{name}.{method}", native)
                stack.enter_context(patch.object(root, method, seen))
            if not methods:
                denoiser = name == "transformer"
                blocks = stack.enter_context(counting(pipeline, name)) if denoiser else None
                stack.callback(_hooked(calls, name, root, blocks).remove)
        yield calls


def _recorded(calls: list[Call], name: str, native: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(Call(name, flattened(native, args, kwargs)))
        return native(*args, **kwargs)

    return call


def _hooked(calls: list[Call], name: str, module: nn.Module, counter: Counter | None) -> Any:
    def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
        blocks = None if counter is None else counter.begin()
        calls.append(Call(name, flattened(module.forward, args, kwargs), blocks))

    return module.register_forward_pre_hook(cast(Any, hook), with_kwargs=True)


def flattened(
    called: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments by name; those given by position have the names of `called`'s parameters."""
    parameters = list(inspect.signature(called).parameters.values())
    places = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    named = {
        places[i] if i < len(places) else f"argument {i}": value for i, value in enumerate(args)
    }
    return {
        name: value
        for argument, given in {**named, **kwargs}.items()
        for name, value in _parts(argument, given)
    }


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, part in cast("Mapping[Any, Any]", value).items():
            yield from _parts(f"{name}.{key}", part)
    elif isinstance(value, (tuple, list)):
        for index, part in enumerate(cast("Sequence[Any]", value)):
            yield from _parts(f"{name}[{index}]", part)
    else:
        yield name, value


@dataclass
class ArgumentRecord:
    """Recorded calls as plain facts, and the tensors that they point to.

    Each of `calls` is {"component", "label", "arguments": {name: fact}, "roles"}. The fact of a tensor
    has `dtype`, `shape`, `digest`, `whole` (its values are kept, no sketch) and `at`, its index in
    `tensors` (rows, values); that of anything else has `value`. An argument that holds the run's latents
    has `carried`, its relative distance from them. `blocks`, where they were
    counted, are [those that worked in the call, all]. `roles` says which argument holds the `text` and
    the `timestep` of the run, where those are known. Equal tensors are kept once.
    """

    calls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tensors: list[Tensor] = field(default_factory=list[Tensor])
    _places: dict[str, int] = field(default_factory=dict[str, int])

    def add(
        self,
        call: Call,
        label: str,
        latents: Tensor | None = None,
        text: Tensor | None = None,
        timestep: int | None = None,
    ) -> None:
        """Keep `call`, made at the step or prompt `label`; `latents` (1, T, C, H, W), `text` (R, L, D)
        and `timestep` are what the run had then."""
        facts: dict[str, Any] = {}
        for name, value in call.arguments.items():
            facts[name] = self._fact(value)
            if isinstance(value, Tensor) and latents is not None:
                held, beside = _apart(value, latents)
                if held is not None:
                    facts[name]["carried"] = held
                if beside is not None:
                    facts[f"{name}, {BESIDE}"] = self._fact(beside)
        known: dict[str, Any] = {"component": call.component, "label": label, "arguments": facts}
        if call.blocks is not None:
            known["blocks"] = [len(call.blocks.worked), call.blocks.total]
        self.calls.append({**known, "roles": _roles(call.arguments, text, timestep)})

    def _fact(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, Tensor):
            plain = value is None or isinstance(value, (bool, int, float, str))
            return {"value": value if plain else f"a {type(value).__name__}"}
        told = digest(value)
        if told not in self._places:
            self._places[told] = len(self.tensors)
            self.tensors.append(kept(value))
        return {
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
            "digest": told[:16],
            "whole": value.numel() <= MOST_VALUES,
            "at": self._places[told],
        }


def kept(tensor: Tensor) -> Tensor:
    """The rows of a tensor (R, n) float32: whole, or a sketch of each."""
    rows = len(tensor) if tensor.ndim > 0 and 0 < len(tensor) <= MOST_ROWS else 1
    flat = tensor.detach().float().cpu().reshape(rows, -1)
    return flat.clone() if tensor.numel() <= MOST_VALUES else torch.stack([*map(sketch, flat)])


def _apart(value: Tensor, latents: Tensor) -> tuple[float | None, Tensor | None]:
    """How far the leading part of `value` is from `latents`, row by row, and what is joined to it.

    (None, None) for an argument whose shape cannot hold them. What is joined may follow along one axis.
    """
    if value.ndim != latents.ndim or not value.is_floating_point():
        return None, None
    wider = [d for d in range(1, value.ndim) if value.shape[d] != latents.shape[d]]
    if len(wider) > 1 or any(value.shape[d] < latents.shape[d] for d in wider):
        return None, None
    own, beside = value, None
    for axis in wider:
        size = latents.shape[axis]
        own = value.narrow(axis, 0, size)
        beside = value.narrow(axis, size, value.shape[axis] - size)
    expected = latents.detach().double().to(value.device)
    gaps = (own.detach().double() - expected).flatten(1).norm(dim=1)
    return float(gaps.max() / expected.norm().clamp_min(1e-300)), beside


def _roles(
    arguments: Mapping[str, Any], text: Tensor | None, timestep: int | None
) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in arguments.items():
        if not isinstance(value, Tensor):
            continue
        given = value.detach().double().cpu()
        if text is not None and given.shape[1:] == text.shape[1:] and len(given) <= len(text):
            expected = text.detach().double().cpu()[-len(given) :]
            if float((given - expected).norm()) <= CARRIED * float(expected.norm()):
                found["text"] = name
        few = timestep is not None and 0 < given.numel() <= MOST_ROWS
        if few and bool(
            ((given - float(timestep or 0)).abs() <= CARRIED * float(timestep or 1)).all()
        ):
            found.setdefault("timestep", name)
    return found


class NativeArguments:
    """Collects what a native run hands to its components, step by step."""

    def __init__(self) -> None:
        self._record = ArgumentRecord()

    def take(self, calls: list[Call], label: str, latents: Tensor | None = None) -> None:
        """Keep the calls made since the last time, and forget them."""
        for call in calls:
            self._record.add(call, label, latents)
        calls.clear()

    def save(self, folder: Path) -> None:
        """Write `arguments.json` and `arguments.safetensors`."""
        (folder / "arguments.json").write_text(json.dumps(self._record.calls))
        tensors = {str(index): tensor for index, tensor in enumerate(self._record.tensors)}
        save_file(tensors, str(folder / "arguments.safetensors"))
