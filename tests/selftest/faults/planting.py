"""The places of an opened pipeline that a defect can be planted in.

become            one object gets methods of its own: a tokenizer, a scheduler, the pipeline's loop
on_input/on_output a module's arguments or results, by hook, so that offloading still works
Alterations       what goes into and comes out of the pipeline as a whole
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from backends.base import Case, Inputs, Pipeline, Prediction, Run, StepObserver
from backends.noise import NoiseTape
from backends.worker.planted import PipelineAround

T = TypeVar("T")


def stack(pipeline: Pipeline) -> Any:
    """The stack's own object: a `CogVideoXPipeline` or a `SatEngine`."""
    return pipeline.native()


def module(pipeline: Pipeline, name: str) -> Any:
    """The module with the canonical `name`, component first."""
    return pipeline.modules()[name]


def block(pipeline: Pipeline, index: int) -> Any:
    """Transformer block `index`; negative counts from the last."""
    return blocks(pipeline)[index]


def blocks(pipeline: Pipeline) -> list[Any]:
    """All transformer blocks in order."""
    found, modules = list[Any](), pipeline.modules()
    while (name := f"transformer.transformer_blocks.{len(found)}") in modules:
        found.append(modules[name])
    return found


def become(target: Any, **members: Any) -> None:
    """Give `target` alone a subclass of its class with `members`; its name stays.

    `super()` is not available in them: take what is needed from the class before.
    """
    kind = type(target)
    target.__class__ = type(kind.__name__, (kind,), members)


def unchanged(self: Any, x: Any) -> Any:
    """A `forward` that does nothing."""
    return x


def on_output(target: nn.Module, change: Callable[[Any], Any]) -> None:
    """Let `change` replace what `target` returns."""

    def act(_module: nn.Module, _arguments: Any, output: Any) -> Any:
        return change(output)

    target.register_forward_hook(act)


def on_call(target: nn.Module, change: Callable[[Any, Any, Any], Any]) -> None:
    """Let `change(args, kwargs, output)` replace what `target` returns."""

    def act(_module: nn.Module, arguments: Any, keywords: Any, output: Any) -> Any:
        return change(arguments, keywords, output)

    target.register_forward_hook(act, with_kwargs=True)


def on_input(target: nn.Module, change: Callable[[Any, Any], tuple[Any, Any]]) -> None:
    """Let `change(args, kwargs)` replace the arguments of `target`."""

    def act(_module: nn.Module, arguments: Any, keywords: Any) -> tuple[Any, Any]:
        return change(arguments, keywords)

    target.register_forward_pre_hook(act, with_kwargs=True)


@torch.no_grad()
def overwrite(parameter: Tensor, value: Tensor) -> None:
    """Replace the values of `parameter`, keeping its dtype."""
    parameter.copy_(value.to(parameter.dtype))


@torch.no_grad()
def exchange(first: Tensor, second: Tensor) -> None:
    """Swap the values of two tensors of one shape."""
    kept = first.clone()
    first.copy_(second)
    second.copy_(kept)


def _same(value: T) -> T:
    return value


def _same_prediction(prediction: Prediction, run: Run, step: int) -> Prediction:
    return prediction


@dataclass(frozen=True)
class Alterations:
    """What is altered around a pipeline; the default of each leaves it alone.

    `case` is what it is called with and `tape` the noise, for the native run and the stages alike.
    `prediction(prediction, run, step)` alters a hand-driven `predict` alone, the counterpart of a
    change to the native loop, and `frames` the native run's video alone, as what happens after
    decoding does. `within` is entered around everything that the pipeline computes: a change of the
    stack's own module-level code, which must not outlive the call.
    """

    case: Callable[[Case], Case] = _same
    tape: Callable[[NoiseTape], NoiseTape] = _same
    prediction: Callable[[Prediction, Run, int], Prediction] = _same_prediction
    frames: Callable[[Tensor], Tensor] = _same
    within: Callable[[], AbstractContextManager[Any]] = nullcontext


class AlteredPipeline(PipelineAround):
    """`inner` under `alterations`. Implements `Pipeline`; what it does not know goes to `inner`."""

    def __init__(self, inner: Pipeline, alterations: Alterations) -> None:
        super().__init__(inner)
        self._altered = alterations

    def prepare(self, case: Case, inputs: Inputs) -> Run:
        with self._altered.within():
            run = self._inner.prepare(self._altered.case(case), inputs)
        return cast(Run, _AlteredRun(run, self._altered))

    def render(self, case: Case, inputs: Inputs, tape: NoiseTape, observe: StepObserver) -> Tensor:
        altered = self._altered
        with altered.within():
            video = self._inner.render(altered.case(case), inputs, altered.tape(tape), observe)
        return altered.frames(video)


class _AlteredRun:
    """The stages of an altered pipeline. Everything, properties too, is computed `within`."""

    def __init__(self, inner: Run, alterations: Alterations) -> None:
        self._inner, self._altered = inner, alterations

    def __getattr__(self, name: str) -> Any:
        with self._altered.within():
            found = getattr(self._inner, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **keywords: Any) -> Any:
            with self._altered.within():
                return found(*map(self._given, arguments), **keywords)

        return call

    def predict(self, latents: Tensor, step: int) -> Prediction:
        with self._altered.within():
            prediction = self._inner.predict(latents, step)
        return self._altered.prediction(prediction, self._inner, step)

    def _given(self, argument: Any) -> Any:
        return self._altered.tape(argument) if isinstance(argument, NoiseTape) else argument


def altered(pipeline: Pipeline, **changes: Any) -> Pipeline:
    """`pipeline` under `Alterations(**changes)`."""
    return AlteredPipeline(pipeline, Alterations(**changes))
