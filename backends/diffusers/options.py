"""The options of the Diffusers backends: a flat dict from YAML, checked and typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from backends.base import ALL_DTYPES, Approximation
from backends.errors import InvalidRequest, hint
from backends.stages.lora_options import check_lora_option, check_lora_options, lora_approximations

if TYPE_CHECKING:
    import torch

PLACEMENTS = (
    "full",
    "model_offload",
    "sequential_offload",
    "group_offload_block",
    "group_offload_leaf",
    "group_offload_block_disk",
    "group_offload_leaf_disk",
)
ATTENTION = ("default", "math", "flash", "efficient", "cudnn")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class DiffusersOptions:
    """How Diffusers runs a model; `conf/backend/diffusers.yaml` says what each option means.

    `vae_dtype` and `text_dtype` are None where they follow `dtype`; `revision` and `variant` None
    where the hub's default is wanted, `checkpoint` None where the case's model is run, and
    `transformer` where its own transformer is.
    """

    dtype: str = "float32"
    vae_dtype: str | None = None
    text_dtype: str | None = None
    device: str = "auto"
    placement: str = "full"
    use_stream: bool = False
    attention: str = "default"
    vae_tiling: bool = False
    vae_slicing: bool = False
    allow_tf32: bool = False
    revision: str | None = None
    variant: str | None = None
    use_safetensors: bool = True
    checkpoint: str | None = None
    transformer: str | None = None
    lora: str | None = None
    lora_scale: float = 1.0
    lora_mode: str = "live"
    compile: bool = False
    fuse_qkv: bool = False
    layerwise_casting: str | None = None
    quantization: str | None = None
    cache: str | None = None


_CHOICES: dict[str, tuple[str | None, ...]] = {
    "dtype": ALL_DTYPES,
    "vae_dtype": (None, *ALL_DTYPES),
    "text_dtype": (None, *ALL_DTYPES),
    "device": DEVICES,
    "placement": PLACEMENTS,
    "attention": ATTENTION,
    "layerwise_casting": (None, "float8_e4m3fn", "float8_e5m2"),
    "quantization": (None, "int8", "float8"),
    "cache": (None, "pab", "fastercache", "first_block"),
}
_SWITCHES = (
    *("use_stream", "vae_tiling", "vae_slicing", "allow_tf32", "use_safetensors"),
    *("compile", "fuse_qkv"),
)


def parse_options(options: Mapping[str, Any]) -> DiffusersOptions:
    """Typed options. Raises `InvalidRequest` for an unknown name or a value of another kind."""
    known = [field.name for field in fields(DiffusersOptions)]
    for name, value in options.items():
        if name not in known:
            raise InvalidRequest(
                f"unknown option {name!r} of the Diffusers backend{hint(name, known)};"
                f" known: {', '.join(known)}"
            )
        _check_value(name, value)
    parsed = DiffusersOptions(**options)
    check_lora_options(parsed.lora, parsed.lora_scale, parsed.lora_mode)
    if parsed.use_stream and not parsed.placement.startswith("group_offload"):
        raise InvalidRequest(
            f"use_stream=true with placement={parsed.placement}: only group offloading has streams;"
            " set use_stream=false or placement=group_offload_leaf"
        )
    return parsed


def approximations(options: Mapping[str, Any]) -> Mapping[str, Approximation]:
    """The options that are meant to change the result."""
    return {
        "vae_tiling": Approximation(off=False),
        "layerwise_casting": Approximation(off=None),
        "quantization": Approximation(off=None),
        "cache": Approximation(off=None, across_steps=True),
        **lora_approximations(options),
    }


def torch_dtype(what: str, name: str) -> torch.dtype:
    """The dtype called `name`; `what` says in the error where the name came from."""
    import torch

    if name not in ALL_DTYPES:
        raise InvalidRequest(
            f"{what}={name!r}{hint(name, list(ALL_DTYPES))}; expected one of {', '.join(ALL_DTYPES)}"
        )
    found: torch.dtype = getattr(torch, name)
    return found


def _check_value(name: str, value: object) -> None:
    if check_lora_option(name, value):
        return
    if name in _SWITCHES:
        if not isinstance(value, bool):
            raise InvalidRequest(f"option {name}={value!r}: expected true or false")
    elif name in _CHOICES:
        choices = _CHOICES[name]
        if value not in choices:
            shown = ", ".join("null" if choice is None else choice for choice in choices)
            words = [choice for choice in choices if choice is not None]
            raise InvalidRequest(
                f"option {name}={value!r}{hint(str(value), words)}; expected one of {shown}"
            )
    elif not (value is None or isinstance(value, str)):
        raise InvalidRequest(f"option {name}={value!r}: expected a name or null")
