"""One pass with every module of a component watched: a small picture of what goes in and comes out.

Modules are named canonically, in the order in which they finish, so that two stacks can be laid beside
each other. A module that is called again (the decoder works in pieces) is recorded twice at most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from backends.base import Pipeline
from backends.stages.trace import sketch

MOST_CALLS = 2


@dataclass
class Scan:
    """What was seen. Rows of `inputs` and `outputs` (512,) belong to `names`; so do the sizes.

    `moments` are (elements, L2 norm, mean) of each output: equal for the same values in another order.
    A row whose value was no tensor holds NaN.
    """

    names: list[str] = field(default_factory=list[str])
    inputs: list[Tensor] = field(default_factory=list[Tensor])
    outputs: list[Tensor] = field(default_factory=list[Tensor])
    moments: list[tuple[int, float, float]] = field(default_factory=list[tuple[int, float, float]])
    calls: Counter[str] = field(default_factory=Counter[str])

    def clear(self) -> None:
        """Forget what was seen, as before the next call of the component."""
        for rows in (self.names, self.inputs, self.outputs, self.moments, self.calls):
            rows.clear()


@contextmanager
def scanning(pipeline: Pipeline, root: str) -> Generator[Scan]:
    """Record every module of component `root` within the block."""
    found = Scan()
    calls = found.calls
    modules = {n: m for n, m in pipeline.modules().items() if n == root or n.startswith(f"{root}.")}

    def watch(name: str, module: nn.Module) -> Any:
        def hook(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            calls[name] += 1
            if calls[name] > MOST_CALLS:
                return
            given, came = _first((*args, *kwargs.values())), _canonical(output)
            found.names.append(name if calls[name] == 1 else f"{name}#{calls[name]}")
            found.inputs.append(_sketched(given))
            found.outputs.append(_sketched(came))
            found.moments.append(_moments(came))

        return module.register_forward_hook(cast(Any, hook), with_kwargs=True)

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(watch(name, module).remove)
        yield found


def _first(values: Any) -> Tensor | None:
    """The first tensor of numbers; where there is none, of whole ones: timesteps, token ids."""
    tensors = [v for v in values if isinstance(v, Tensor)]
    return next((v for v in tensors if v.is_floating_point()), tensors[0] if tensors else None)


def _canonical(output: Any) -> Tensor | None:
    """The tensor of an output. Diffusers' blocks give video and text apart: text first, then video."""
    if isinstance(output, Tensor):
        return output
    values = list(output.values()) if hasattr(output, "values") else output
    if not isinstance(values, (tuple, list)):
        return None
    tensors = [v for v in cast("list[Any]", values) if isinstance(v, Tensor)]
    if len(tensors) == 2 and tensors[0].ndim == tensors[1].ndim == 3:
        return torch.cat([tensors[1], tensors[0]], dim=1)
    if len(tensors) > 2 and tensors[0].ndim == 3:  # a modulated norm: both streams and their gates
        return torch.cat([t.reshape(-1) for t in tensors])
    return tensors[0] if tensors else None


def _sketched(tensor: Tensor | None) -> Tensor:
    return torch.full((512,), float("nan")) if tensor is None else sketch(tensor)


def _moments(tensor: Tensor | None) -> tuple[int, float, float]:
    if tensor is None:
        return 0, float("nan"), float("nan")
    values = tensor.detach().double()
    return values.numel(), float(values.norm()), float(values.mean())
