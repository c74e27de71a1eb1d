"""The options of the `sat` backend: a flat dict from YAML, checked and typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from backends.base import DTYPES
from backends.errors import InvalidRequest, hint
from backends.stages.lora_options import check_lora_option, check_lora_options

_CHOICES = {
    "dtype": DTYPES,
    "device": ("auto", "cpu", "cuda"),
    "attention": ("default", "math", "flash", "efficient", "cudnn"),
    "first_frame": ("upstream", "single"),
}


@dataclass(frozen=True)
class SatOptions:
    """How SAT runs a model.

    `dtype` is that of transformer, VAE and T5 together, as in SAT. `attention` forces one kernel of
    `scaled_dot_product_attention`. `checkpoint` is a SAT folder that takes the place of the case's
    `model`, for a pair whose other side needs another format; `config` is a YAML file and
    `text_encoder` a T5 folder that do not lie in it. `first_frame` matters to 1.5 only: CogVideo
    decodes the first latent frame to four pixel frames, of which the last is kept here; with
    "single" it becomes one, as the VAE was trained and as all other models and Diffusers do.
    `backends.stages.lora_options` says what the LoRA options are.

    `repo` is the `sat` folder of a checkout of CogVideo, whose own code then runs the model in place
    of this project's; `inference_config` is the YAML file with `args:` that goes with it.
    """

    dtype: str = "float32"
    device: str = "auto"
    attention: str = "default"
    allow_tf32: bool = False
    checkpoint: str | None = None
    config: str | None = None
    text_encoder: str | None = None
    repo: str | None = None
    inference_config: str | None = None
    first_frame: str = "upstream"
    lora: str | None = None
    lora_scale: float = 1.0
    lora_mode: str = "live"


def parse_options(options: Mapping[str, Any]) -> SatOptions:
    """Typed options. Raises `InvalidRequest` for an unknown name or a value of another kind."""
    known = [field.name for field in fields(SatOptions)]
    for name, value in options.items():
        if name not in known:
            raise InvalidRequest(
                f"unknown option {name!r} of the sat backend{hint(name, known)};"
                f" known: {', '.join(known)}"
            )
        if check_lora_option(name, value):
            continue
        if name in _CHOICES:
            if value not in _CHOICES[name]:
                raise InvalidRequest(
                    f"option {name}={value!r}{hint(str(value), list(_CHOICES[name]))}; expected"
                    f" one of {', '.join(_CHOICES[name])}"
                )
        elif name == "allow_tf32":
            if not isinstance(value, bool):
                raise InvalidRequest(f"option {name}={value!r}: expected true or false")
        elif not (value is None or isinstance(value, str)):
            raise InvalidRequest(f"option {name}={value!r}: expected a path or null")
    parsed = SatOptions(**options)
    check_lora_options(parsed.lora, parsed.lora_scale, parsed.lora_mode)
    if parsed.inference_config is not None and parsed.repo is None:
        raise InvalidRequest(
            "option inference_config: only CogVideo's own code reads that file; set `repo`, too, or"
            " remove it"
        )
    return parsed
