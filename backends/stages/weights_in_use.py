"""Weights as they are when they are used: hashed inside every module's own forward.

Offloading moves weights around a forward; what counts is what lies there when the mathematics runs.
Accelerate and Diffusers bring weights in by replacing `module.forward`, so an ordinary pre-hook would
look too early. The check is put inside those wrappers, on a module without one as a pre-hook.

    whole pipeline --identity()--> expected
    offloaded one  --probe()-----> every module's forward --> digest against expected
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import wraps
from typing import Any, Literal

import torch
from torch import Tensor, nn

from backends.base import Identity, Pipeline
from backends.checkpoints.tensors import digest

_TIED = {"text_encoder.encoder.embed_tokens.weight": "text_encoder.shared.weight"}
"""T5 uses its embedding under the first name; an identity lists it under the second."""

_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)

Kind = Literal["stale", "dtype", "missing", "device"]


@dataclass(frozen=True)
class OffloadFault:
    """A tensor that was not as it should be when its module ran for the `use`-th time (from 1).

    `stale`: other values. `dtype`: another dtype. `missing`: not there, or on the meta device.
    `device`: elsewhere than the module's input.
    """

    kind: Kind
    tensor: str
    use: int
    detail: str


@dataclass
class OffloadAudit:
    """What one probe showed. `checked` are the tensors that were seen in use, `uses` how often;
    `unused` those that the probe never needed, about which nothing is known. `error` is what ended
    the probe early, if faults explain it. `faults` has each tensor and kind once."""

    checked: set[str] = field(default_factory=set[str])
    uses: int = 0
    unused: tuple[str, ...] = ()
    faults: list[OffloadFault] = field(default_factory=list[OffloadFault])
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain types only."""
        return asdict(self) | {"checked": sorted(self.checked), "unused": list(self.unused)}


def audit_offload(
    pipeline: Pipeline, expected: Identity, probe: Callable[[], object]
) -> OffloadAudit:
    """Run `probe` (a short render) and compare every weight at every use with `expected`.

    `expected` is the identity of the same model under `placement: full` with the same dtypes. Works
    for any pipeline whose modules have the names of its identity, which are Diffusers' placements.
    Raises what `probe` raises, unless a fault was found before it.
    """
    watch = _Watch(expected)
    with ExitStack() as stack:
        for name, module in pipeline.modules().items():
            listed = _listed(name)
            # A layer that PEFT wraps owns nothing itself; its `base_layer` does.
            if watch.wants(listed) and not hasattr(module, "base_layer"):
                stack.enter_context(_inside(module, watch.check(listed)))
        try:
            probe()
        except Exception as error:
            if not watch.result.faults:
                raise
            watch.result.error = f"{type(error).__name__}: {error}"
    watch.result.unused = tuple(sorted(set(expected.weights) - watch.result.checked))
    return watch.result


def _listed(module: str) -> str:
    """The module's name in an identity, which knows nothing of PEFT's wrappers and adapters."""
    return re.sub(r"\.(lora_[AB])\.[^.]+$", r".\1", module.replace(".base_layer", ""))


class _Watch:
    """Compares a module's own tensors with what is expected of them."""

    def __init__(self, expected: Identity) -> None:
        self.result = OffloadAudit()
        self._expected = expected
        self._owners = {value: name for name, value in expected.weights.items()}
        self._names: defaultdict[str, list[str]] = defaultdict(list)
        for name in expected.weights:
            module, _, tensor = name.rpartition(".")
            self._names[module].append(tensor)
        for used, listed in _TIED.items():
            if listed in expected.weights:
                module, _, tensor = used.rpartition(".")
                self._names[module].append(tensor)
        self._uses: defaultdict[str, int] = defaultdict(int)
        self._told: set[tuple[str, str]] = set()
        # An identity digests tables in the transformer's dtype, whatever they are kept in.
        self._table_dtype = getattr(torch, expected.dtypes["transformer"].split(", ")[0])

    def wants(self, module: str) -> bool:
        """Whether `module` owns any tensor."""
        return module in self._names

    def check(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any]], None]:
        """The check to call with a module and its arguments just before its mathematics."""

        def check(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            self._uses[name] += 1
            self.result.uses += 1
            inputs = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
            device = inputs[0].device if inputs else None
            for tensor in self._names[name]:
                self._compare(f"{name}.{tensor}", module, tensor, device)

        return check

    def _compare(
        self, name: str, module: nn.Module, short: str, device: torch.device | None
    ) -> None:
        parameter = dict(module.named_parameters(recurse=False)).get(short)
        buffers = dict(module.named_buffers(recurse=False))
        tensor = parameter if parameter is not None else buffers.get(short)
        if tensor is None or tensor.is_meta:
            where = "is not there" if tensor is None else "is on the meta device, not brought in"
            self._tell("missing", name, f"{name} {where}")
            return
        listed = _TIED.get(name, name)
        self.result.checked.add(listed)
        if device is not None and tensor.device.type != device.type:
            self._tell("device", name, f"{name} is on {tensor.device}, its input on {device}")
        came = str(tensor.dtype).removeprefix("torch.")
        wanted = self._expected.dtypes[name.partition(".")[0]]
        if parameter is not None and came not in wanted.split(", "):
            self._tell("dtype", name, f"{name} is {came}, expected {wanted}")
            return
        value = tensor.detach() if parameter is not None else tensor.to(self._table_dtype)
        found = digest(value)
        if found != self._expected.weights[listed]:
            self._tell("stale", name, f"{name} {self._resembles(value, found)}")

    def _resembles(self, value: Tensor, found: str) -> str:
        """What the values are that are not those that were loaded, in words."""
        if not value.any():
            return "is all zeros: it never arrived"
        if (owner := self._owners.get(found)) is not None:
            return f"holds the values of {owner}"
        for dtype in _FLOAT8:
            if torch.equal(value.to(dtype).to(value.dtype), value):
                return f"was rounded to {str(dtype).removeprefix('torch.')}"
        return "has other values than when it was loaded"

    def _tell(self, kind: Kind, name: str, detail: str) -> None:
        if (kind, name) not in self._told:
            self._told.add((kind, name))
            use = self._uses[name.rpartition(".")[0]]
            self.result.faults.append(OffloadFault(kind, name, use, f"{detail} (use {use})"))


@contextmanager
def _inside(
    module: nn.Module, check: Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any]], None]
) -> Generator[None]:
    """Call `check` innermost: after whatever brings the module's weights in."""
    holder, attribute = _innermost(module)
    if holder is None:
        handle = module.register_forward_pre_hook(check, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
        return
    inner: Callable[..., Any] = getattr(holder, attribute)

    @wraps(inner)
    def checked(*args: Any, **kwargs: Any) -> Any:
        check(module, args, kwargs)
        return inner(*args, **kwargs)

    setattr(holder, attribute, checked)
    try:
        yield
    finally:
        setattr(holder, attribute, inner)


def _innermost(module: nn.Module) -> tuple[Any, str]:
    """Where the module's own forward is kept by whoever replaced it: object and attribute."""
    if hasattr(module, "_old_forward"):  # accelerate.hooks.add_hook_to_module
        return module, "_old_forward"
    registry: Any = getattr(module, "_diffusers_hook", None)
    references = getattr(registry, "_fn_refs", None)
    if references:  # diffusers.hooks.HookRegistry: the first hook wraps the module's own forward
        return references[0], "forward"
    return None, ""
