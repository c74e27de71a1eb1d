"""A backend around what a caller already has: a pipeline of this contract, a Diffusers pipeline, or a
function that makes either.

Such a pipeline stays its owner's: closing it here takes off what was put on and leaves it usable.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from backends.base import Case, Identity, Inputs, Pipeline, Policies, Run, StepObserver
from backends.errors import InvalidRequest, Unsupported

if TYPE_CHECKING:
    from torch import Tensor, nn

    from backends.noise import NoiseTape

OWN = "own"
"""The dtype option that leaves a thing's components in the dtypes that they have."""

_STAGES = ("identity", "policies", "modules", "prepare", "render")


def offers_stages(thing: object) -> bool:
    """Whether `thing` is a pipeline of the contract (`backends.base.Pipeline`)."""
    return all(callable(getattr(thing, name, None)) for name in _STAGES)


def is_diffusers(thing: object) -> bool:
    """Whether `thing` is a pipeline instance of Diffusers; imports nothing to find out."""
    return any(base.__name__ == "DiffusionPipeline" for base in type(thing).__mro__)


class GivenBackend:
    """Opens one given thing, whatever model is asked for."""

    def __init__(self, thing: object) -> None:
        """Raises `InvalidRequest` for what is neither a pipeline nor a function that makes one."""
        self._given = offers_stages(thing) or is_diffusers(thing)
        if not self._given and not (callable(thing) and not isinstance(thing, type)):
            raise InvalidRequest(
                f"{type(thing).__name__} is no pipeline: expected an object with the stages"
                f" {', '.join(_STAGES)} (backends.base.Pipeline), a Diffusers pipeline, or a"
                " function without arguments that returns one of them"
            )
        self._thing = thing

    @property
    def options(self) -> dict[str, Any]:
        """The options that `open` takes, as the thing is now: its dtype, or `own` if that is mixed.

        A pipeline of the contract is what it is and has none.
        """
        if not self._given:
            return {"dtype": OWN}
        if not is_diffusers(self._thing):
            return {}
        from backends.diffusers.given import common_dtype

        return {"dtype": common_dtype(self._thing) or OWN}

    def check_options(self, options: Mapping[str, Any]) -> None:
        """`options` are this object's own; `open` says what does not fit the thing."""

    def makes(self, frames: int) -> bool:
        """Only the thing itself knows, once it is asked to render."""
        return True

    def check(self, options: Mapping[str, Any]) -> None:
        """Anything that was given can be opened."""

    def open(self, model: str, options: Mapping[str, Any]) -> Pipeline:
        """Take `dtype` to the function if it takes one, else cast a Diffusers pipeline to it.

        Raises `Unsupported` where neither can be done.
        """
        dtype = options.get("dtype", OWN)
        if self._given:
            return self._around(self._thing, dtype, lent=True)
        if dtype != OWN and "dtype" in inspect.signature(self._make).parameters:
            return self._around(self._checked(self._make(dtype=dtype)), OWN, lent=False)
        return self._around(self._checked(self._make()), dtype, lent=False)

    def _checked(self, made: object) -> object:
        if offers_stages(made) or is_diffusers(made):
            return made
        raise InvalidRequest(
            f"{getattr(self._thing, '__name__', self._thing)}() returned a"
            f" {type(made).__name__}, expected an object with the stages"
            f" {', '.join(_STAGES)} or a Diffusers pipeline"
        )

    @property
    def _make(self) -> Callable[..., object]:
        return cast("Callable[..., object]", self._thing)

    def _around(self, thing: object, dtype: str, lent: bool) -> Pipeline:
        if is_diffusers(thing):
            from backends.diffusers.given import GivenDiffusersPipeline

            return GivenDiffusersPipeline(thing, None if dtype == OWN else dtype)
        if dtype != OWN:
            raise Unsupported(
                f"the function makes a {type(thing).__name__}, which cannot be cast to {dtype} from"
                " outside; let the function take the argument `dtype`"
            )
        pipeline = cast("Pipeline", thing)
        return _Lent(pipeline) if lent else pipeline


@dataclass(frozen=True)
class _Lent:
    """A pipeline that its owner closes."""

    pipeline: Pipeline

    def identity(self) -> Identity:
        return self.pipeline.identity()

    def policies(self) -> Policies:
        return self.pipeline.policies()

    def modules(self) -> Mapping[str, nn.Module]:
        return self.pipeline.modules()

    def native(self) -> object:
        return self.pipeline.native()

    def prepare(self, case: Case, inputs: Inputs) -> Run:
        return self.pipeline.prepare(case, inputs)

    def render(self, case: Case, inputs: Inputs, tape: NoiseTape, observe: StepObserver) -> Tensor:
        return self.pipeline.render(case, inputs, tape, observe)

    def close(self) -> None:
        """Nothing was put on it."""
