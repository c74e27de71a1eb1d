"""Checks of configured values, each with a message that says what came, what fits, and where."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, cast, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from backends import registry
from backends.base import ALL_DTYPES, Backend, Case, Sampler
from backends.errors import InvalidRequest, suggest
from backends.micro import media_path
from harness.errors import ConfigError
from harness.render.memory import least_gib, machine_gib

_UNWRITABLE = re.compile("[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff]")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_DTYPE_NICKNAMES = {
    "fp32": "float32", "float": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16",
    "fp64": "float64", "double": "float64",
}  # fmt: skip
_EXPECTED = {"path_type": "input should be a path", "dict_type": "input should be a mapping"}
# The VAE halves each side three times and the transformer takes patches of 2 x 2 latents.
_SIZE_STEP_PX = 16
_TRAINING_STEPS = 1000
_FASTEST_FPS = 1000
_STRONGEST_GUIDANCE = 1000.0
_LONGEST_TEXT = 10_000
_FURTHEST_FRAMES = 64
"""How far from a frame count that a backend does not make another one is looked for."""


def typed(where: str, kind: Any, value: object) -> Any:
    """`value` as the type `kind` (anything pydantic understands). Raises `ConfigError`.

    Strictly, by the rules of JSON: `true` is no number, "5" and 5.0 are no whole number, 1 is no switch.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
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
    if case.frames < 2:
        problems.append(f"frames`: {case.frames} frames are no video; give at least 2")
    for side, pixels in (("height", case.height), ("width", case.width)):
        if pixels % _SIZE_STEP_PX or pixels < _SIZE_STEP_PX:
            lower = max(_SIZE_STEP_PX, pixels // _SIZE_STEP_PX * _SIZE_STEP_PX)
            problems.append(
                f"{side}`: {pixels} px is not a multiple of {_SIZE_STEP_PX} px, one patch of"
                f" latents. Nearest: {lower} or {lower + _SIZE_STEP_PX}"
            )
    if not 1 <= case.fps <= _FASTEST_FPS:
        problems.append(f"fps`: {case.fps} frames a second; give 1 to {_FASTEST_FPS}")
    if not problems and least_gib(case) > machine_gib():
        problems.append(
            f"frames`: {case.frames} frames of {case.height}x{case.width} pixels take at least"
            f" {least_gib(case):.0f} GiB as decoded, and this machine has {machine_gib():.0f} GiB;"
            " make fewer or smaller frames"
        )
    return problems


def _sampling_problems(case: Case) -> list[str]:
    problems: list[str] = []
    if not 1 <= case.steps <= _TRAINING_STEPS:
        problems.append(
            f"steps`: {case.steps} solver steps; the noise schedule has 1 to {_TRAINING_STEPS}"
        )
    if not 1 <= case.guidance_scale <= _STRONGEST_GUIDANCE:
        problems.append(
            f"guidance_scale`: {case.guidance_scale:g}; give a finite number from 1 (no guidance) to"
            f" {_STRONGEST_GUIDANCE:g}. The models were tuned for about 6"
        )
    if not case.model.strip():
        problems.append("model`: it is empty; name a micro model, a folder or a hub id")
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


def check_frames(case: Case, backends: Collection[str]) -> None:
    """Every backend of a run must make videos of the case's frame count."""
    makers = {name: maker for name in backends if (maker := _loaded(name)) is not None}
    if unable := sorted(name for name, maker in makers.items() if not maker.makes(case.frames)):
        below = range(case.frames - 1, max(1, case.frames - _FURTHEST_FRAMES), -1)
        above = range(case.frames + 1, case.frames + _FURTHEST_FRAMES)
        nearest = [
            next((count for count in side if all(m.makes(count) for m in makers.values())), None)
            for side in (below, above)
        ]
        raise ConfigError(
            f"`cases.{case.name}.frames`: {' and '.join(unable)} cannot make a video of {case.frames}"
            f" frames. Nearest that every backend of this run makes:"
            f" {' or '.join(str(count) for count in nearest if count) or 'none'}"
        )


def check_options(where: str, backend: str, options: Mapping[str, Any]) -> None:
    """A backend's options, as far as it can tell without its stack."""
    if (loaded := _loaded(backend)) is None:
        return
    try:
        loaded.check_options(options)
    except InvalidRequest as error:
        raise ConfigError(f"`{where}`: {error}") from error


def _loaded(name: str) -> Backend | None:
    """A backend, or None for another package's that only its own worker can import or ask."""
    try:
        backend = registry.load(name)
    except ImportError:
        return None
    return backend if hasattr(backend, "check_options") and hasattr(backend, "makes") else None


def check_interpreter(where: str, python: str | None) -> None:
    """The interpreter of a variant's worker must be there to be started."""
    if python is not None and shutil.which(python) is None:
        raise ConfigError(
            f"`{where}.python`: there is no program {python!r} to be started; give the interpreter's"
            " full path, as in /path/to/venv/bin/python"
        )


def check_words(where: str, node: object) -> None:
    """No text of a configuration may hold what no prompt, path or file of the store can."""
    if isinstance(node, Mapping):
        for key, value in cast("Mapping[Any, Any]", node).items():
            check_words(where, key)
            check_words(f"{where}.{key}" if where else str(key), value)
    elif isinstance(node, list):
        for value in cast("list[Any]", node):
            check_words(where, value)
    elif isinstance(node, str):
        if len(node) > _LONGEST_TEXT:
            raise ConfigError(
                f"`{where}`: a text of {len(node)} characters; give at most {_LONGEST_TEXT}"
            )
        if odd := _UNWRITABLE.search(node):
            raise ConfigError(
                f"`{where}`: {node[:80]!r} holds the character {odd[0]!r} at position {odd.start()},"
                " which is no text; remove it"
            )


def check_backend(where: str, backend: object) -> None:
    """A backend is chosen by its registry name."""
    known = registry.names()
    if not isinstance(backend, str) or backend not in known:
        raise ConfigError(
            f"`{where}.backend`: no backend {backend!r}{suggest(str(backend), known)}"
        )


def check_dtypes(where: str, options: Mapping[str, Any]) -> None:
    """Every option named `dtype` or `..._dtype` holds one of the dtypes' full names, or null."""
    for key, value in options.items():
        if (key == "dtype" or key.endswith("_dtype")) and value not in (None, *ALL_DTYPES):
            meant = _DTYPE_NICKNAMES.get(str(value).removeprefix("torch."), str(value))
            raise ConfigError(f"`{where}.{key}`: no dtype {value!r}{suggest(meant, ALL_DTYPES)}")
