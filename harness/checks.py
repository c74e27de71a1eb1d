"""Checks of configured values, each with a message that says what came, what fits, and where."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from backends import registry
from backends.base import ALL_DTYPES, Case, Sampler
from backends.micro import media_path
from harness.errors import ConfigError
from harness.suggest import suggest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_DTYPE_NICKNAMES = {
    "fp32": "float32", "float": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16",
    "fp64": "float64", "double": "float64",
}  # fmt: skip
_EXPECTED = {"path_type": "input should be a path", "dict_type": "input should be a mapping"}
# The VAE halves each side three times and the transformer takes patches of 2 x 2 latents.
_SIZE_STEP_PX = 16
# The VAE decodes the first latent to one frame and every further one to four.
_FRAMES_PER_LATENT = 4
_TRAINING_STEPS = 1000


def typed(where: str, kind: Any, value: object) -> Any:
    """`value` as the type `kind` (anything pydantic understands). Raises `ConfigError`."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise ConfigError(
            "; ".join(_in_words(where, kind, item) for item in error.errors())
        ) from None


def _in_words(where: str, kind: Any, item: Mapping[str, Any]) -> str:
    loc = [str(part) for part in item["loc"]]
    path = ".".join([where, *loc] if where else loc)
    if item["type"] == "missing":
        return f"`{path}` is missing; give it a value"
    if item["type"] == "extra_forbidden":
        return f"there is no key `{path}`{suggest(loc[-1], _keys_beside(kind, loc))}"
    expected = _EXPECTED.get(item["type"], item["msg"].lower())
    return f"`{path}`: {expected}, got {item['input']!r}"


def _keys_beside(kind: Any, loc: list[str]) -> list[str]:
    """The keys that the record which holds `loc` does have."""
    for part in loc[:-1]:
        kind = kind.model_fields[part].annotation
    return list(kind.model_fields) if issubclass(kind, BaseModel) else []


def check_name(kind: str, name: str) -> None:
    """Names become file names and table columns."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{kind} {name!r}: a name has letters, digits, `_`, `-` and `.` only, and starts with"
            " a letter or digit"
        )


def check_case(name: str, values: Mapping[str, Any]) -> Case:
    """The case `name` with `values` from its YAML."""
    where = f"cases.{name}"
    check_name("case", name)
    known = {field.name for field in fields(Case)} - {"name"}
    for key in values:
        if key not in known:
            raise ConfigError(f"there is no key `{where}.{key}`{suggest(key, known)}")
    samplers = get_args(Sampler)
    if (sampler := values.get("sampler")) is not None and sampler not in samplers:
        raise ConfigError(
            f"`{where}.sampler`: no sampler {sampler!r}{suggest(str(sampler), samplers)}"
        )
    case: Case = typed(where, Case, {**values, "name": name})
    problems = *_shape_problems(case), *_sampling_problems(case), *_conditioning_problems(case)
    for problem in problems:
        raise ConfigError(f"`{where}.{problem}")
    return case


def _shape_problems(case: Case) -> list[str]:
    problems: list[str] = []
    if case.frames % _FRAMES_PER_LATENT != 1 or case.frames < 5:
        lower = max(5, (case.frames - 1) // _FRAMES_PER_LATENT * _FRAMES_PER_LATENT + 1)
        problems.append(
            f"frames`: {case.frames} frames cannot be decoded; the VAE makes 4k+1 of them, at least"
            f" 5. Nearest: {lower} or {lower + _FRAMES_PER_LATENT}"
        )
    for side, pixels in (("height", case.height), ("width", case.width)):
        if pixels % _SIZE_STEP_PX or pixels < _SIZE_STEP_PX:
            lower = max(_SIZE_STEP_PX, pixels // _SIZE_STEP_PX * _SIZE_STEP_PX)
            problems.append(
                f"{side}`: {pixels} px is not a multiple of {_SIZE_STEP_PX} px, one patch of"
                f" latents. Nearest: {lower} or {lower + _SIZE_STEP_PX}"
            )
    if case.fps < 1:
        problems.append(f"fps`: {case.fps} frames a second; give at least 1")
    return problems


def _sampling_problems(case: Case) -> list[str]:
    problems: list[str] = []
    if not 1 <= case.steps <= _TRAINING_STEPS:
        problems.append(
            f"steps`: {case.steps} solver steps; the noise schedule has 1 to {_TRAINING_STEPS}"
        )
    if not (math.isfinite(case.guidance_scale) and case.guidance_scale >= 1):
        problems.append(
            f"guidance_scale`: {case.guidance_scale:g}; give a finite number from 1 (no guidance)"
            " upwards. The models were tuned for about 6"
        )
    if not case.prompt.strip():
        problems.append("prompt`: it is empty; say what to render")
    return problems


def _conditioning_problems(case: Case) -> list[str]:
    problems: list[str] = []
    for name, given in (("image", case.image), ("video", case.video)):
        if given is None:
            continue
        try:
            found = media_path(given).is_file()
        except KeyError as error:
            problems.append(f"{name}`: {error.args[0]}")
            continue
        if not found:
            problems.append(f"{name}`: there is no file {given} (relative to the current folder)")
    if case.image is not None and case.video is not None:
        problems.append("video`: a case has an `image` or a `video`, not both; set one to null")
    if not 0 < case.strength <= 1:
        problems.append(
            f"strength`: {case.strength:g}; give a share of the steps, above 0, up to 1"
        )
    elif case.solver_steps < 1:
        problems.append(
            f"strength`: {case.strength:g} of {case.steps} steps leaves none to run; raise one"
        )
    return problems


def check_backend(where: str, backend: object) -> None:
    """A backend is chosen by its registry name."""
    known = registry.names()
    if backend not in known:
        raise ConfigError(
            f"`{where}.backend`: no backend {backend!r}{suggest(str(backend), known)}"
        )


def check_dtypes(where: str, options: Mapping[str, Any]) -> None:
    """Every option named `dtype` or `..._dtype` holds one of the dtypes' full names, or null."""
    for key, value in options.items():
        if (key == "dtype" or key.endswith("_dtype")) and value not in (None, *ALL_DTYPES):
            meant = _DTYPE_NICKNAMES.get(str(value).removeprefix("torch."), str(value))
            raise ConfigError(f"`{where}.{key}`: no dtype {value!r}{suggest(meant, ALL_DTYPES)}")
