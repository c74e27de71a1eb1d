"""The Diffusers adapter around a pipeline instance that its owner made, placed and keeps."""

from __future__ import annotations

from typing import Any

from torch import nn

from backends.diffusers.adapter import DiffusersPipeline
from backends.diffusers.identity import TensorNames
from backends.diffusers.options import DiffusersOptions, torch_dtype
from backends.diffusers.placement import COMPONENTS
from backends.errors import InvalidRequest, Unsupported


def common_dtype(pipe: Any) -> str | None:
    """The name of the one dtype of all components; None if they differ or a component is missing."""
    found = {str(getattr(getattr(pipe, name, None), "dtype", "")) for name in COMPONENTS}
    return found.pop().removeprefix("torch.") if len(found) == 1 and found != {""} else None


class GivenDiffusersPipeline(DiffusersPipeline):
    """Implements `Pipeline` on a `CogVideoX*Pipeline` instance; `close` leaves it as it was."""

    def __init__(self, pipe: Any, dtype: str | None) -> None:
        """`dtype` casts every component until `close`; None takes the pipeline as it is.

        Raises `Unsupported` for another pipeline class, and for a cast under offloading.
        """
        if not type(pipe).__name__.startswith("CogVideoX"):
            raise Unsupported(
                f"a {type(pipe).__name__} cannot be driven stage by stage here: the Diffusers adapter"
                " knows the CogVideoX pipelines. Wrap it in an object that offers the stages of"
                " backends.base.Pipeline"
            )
        self._components: dict[str, nn.Module] = {n: getattr(pipe, n) for n in COMPONENTS}
        self._own = {name: module.dtype for name, module in self._components.items()}
        if dtype is not None:
            self._cast({name: torch_dtype("dtype", dtype) for name in COMPONENTS})
        names = {n: str(m.dtype).removeprefix("torch.") for n, m in self._components.items()}
        self._options = DiffusersOptions(
            dtype=names["transformer"], vae_dtype=names["vae"], text_dtype=names["text_encoder"]
        )
        self._dtype = torch_dtype("transformer", names["transformer"])
        self._vae_dtype = torch_dtype("vae", names["vae"])
        self._text_dtype = torch_dtype("text_encoder", names["text_encoder"])
        self._lora = None  # what its owner has attached belongs to the pipeline as it is
        self._names = TensorNames(pipe)
        self._placement = _AsItIs(str(pipe._execution_device.type))
        self._pipe = pipe

    def close(self) -> None:
        """Give the components their own dtypes back: a cast to a wider one and back is exact."""
        if self._pipe is not None:
            self._cast(self._own)
            self._pipe = None

    def _cast(self, dtypes: dict[str, Any]) -> None:
        for name, module in self._components.items():
            if module.dtype == dtypes[name]:
                continue
            if any(
                hasattr(m, "_hf_hook") or hasattr(m, "_diffusers_hook") for m in module.modules()
            ):
                raise Unsupported(
                    f"the {name} is offloaded, so it cannot be cast to {dtypes[name]} in place; give"
                    " a function that takes `dtype` and makes the pipeline instead of the instance"
                )
            if module.dtype.itemsize > dtypes[name].itemsize and dtypes[name] != self._own[name]:
                raise InvalidRequest(f"the {name} cannot be cast from {module.dtype} and back")
            module.to(dtypes[name])


class _AsItIs:
    """The placement that the owner chose; nothing was put on, so nothing is taken off."""

    def __init__(self, label: str) -> None:
        self.label = label

    def remove(self) -> None:
        """Leave the owner's hooks."""
