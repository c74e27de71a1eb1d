"""Every change that is tried on a pair, made from what the pair has and not from a list."""

from __future__ import annotations

import ast
import inspect
import json
import re
import struct
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from backends.diffusers.options import _CHOICES, _SWITCHES, DiffusersOptions
from tests.trust.one_thing_pair import PACKAGES, Change, Pair

_WORDS: dict[str, str] = {
    "activation_fn": "gelu", "timestep_activation_fn": "mish", "act_fn": "mish", "dtype": "float32",
    "dense_act_fn": "relu", "feed_forward_proj": "gated-silu", "beta_schedule": "linear",
    "prediction_type": "epsilon", "timestep_spacing": "leading", "eos_token": "<pad>",
    "pad_token": "</s>", "unk_token": "<pad>", "CogVideoXDDIMScheduler": "CogVideoXDPMScheduler",
}  # fmt: skip
"""Another legal word for a setting, or for a word, that takes no number."""

_NAMED: dict[str, Any] = {
    "checkpoint": "micro-5b", "lora": "micro-5b-magenta", "lora_scale": 0.5, "lora_mode": "fused",
    "revision": "other", "variant": "fp16",
}  # fmt: skip
"""Another value for an option that takes a name or a number; `transformer` gets one trained on. This
model has no LoRA, and a folder no revisions."""

_VALUES: dict[str, str] = {
    "ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "DNNL_MAX_CPU_ISA": "SSE41",
    "DIFFUSERS_ATTN_BACKEND": "_native_math", "LD_PRELOAD": "libm.so.6",
}  # fmt: skip
"""Another value for a variable that is no switch; the first are read by libraries, not by Python."""

_SCALE = """

def _one_thing(function):
    import functools

    def scaled(value):
        import numpy, torch

        if isinstance(value, torch.Tensor):
            return value * 1.001 if value.is_floating_point() else value
        if isinstance(value, numpy.ndarray):
            return value * 1.001 if value.dtype.kind == "f" else value
        if isinstance(value, (tuple, list)) and value and not hasattr(value, "_fields"):
            return type(value)([scaled(value[0]), *value[1:]])
        if isinstance(value, dict) and value:
            first = next(iter(value))
            value[first] = scaled(value[first])
        return value

    @functools.wraps(function)
    def changed(*args, **named):
        return scaled(function(*args, **named))

    return changed


"""


def all_changes(pair: Pair) -> list[Change]:
    """Every change of every kind, in a fixed order."""
    return [
        *_weights(pair), *_settings(pair), *_files(pair), *_options(pair), *_variables(pair),
        *_remarks(pair), *_numbers(pair),
    ]  # fmt: skip


def _relative(pair: Pair, pattern: str) -> Iterator[tuple[str, Path]]:
    for path in sorted((pair.folder / "model").rglob(pattern)):
        yield str(path.relative_to(pair.folder)), path


def _flip(at: int, content: bytes) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def _weights(pair: Pair) -> Iterator[Change]:
    """The lowest bit of one element in the middle of every tensor."""
    for name, path in _relative(pair, "*.safetensors"):
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__", None)
        for tensor, entry in header.items():
            begin, end = entry["data_offsets"]
            elements = max(1, int(re.sub(r"\D", "", entry["dtype"])) // 8)
            at = 8 + length + begin + (end - begin) // elements // 2 * elements
            yield Change("weights", f"{name}: {tensor}", name, partial(_flip, at))


def _other(key: str, value: Any) -> Any:
    """Another value of the same kind."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value * 1.01 or 0.5
        case str():
            return _WORDS.get(key, _WORDS.get(value, f"{value}x"))
        case [*rest, last]:
            return [*rest, _other(key, last)]
        case {}:
            last = list(value)[-1:]
            return {**value, **{name: _other(name, value[name]) for name in last}}
        case _:
            return 1


def _settings(pair: Pair) -> Iterator[Change]:
    def edit(key: str, content: bytes) -> bytes:
        document = json.loads(content)
        return json.dumps({**document, key: _other(key, document[key])}).encode()

    for name, path in _relative(pair, "*.json"):
        for key in json.loads(path.read_text()):
            yield Change("settings", f"{name}: {key}", name, partial(edit, key))


def _files(pair: Pair) -> Iterator[Change]:
    """One bit in the middle of every file that is read whole."""
    for name, path in _relative(pair, "*"):
        if path.is_file() and path.suffix not in (".json", ".safetensors"):
            yield Change("files", name, name, partial(_flip, path.stat().st_size // 2))


def _options(pair: Pair) -> Iterator[Change]:
    """Every other value of every option that has a list of values, another one of every other."""
    for option in fields(DiffusersOptions):
        name = option.name
        if name in _CHOICES:
            values: list[Any] = [v for v in _CHOICES[name] if v not in (None, option.default)]
        elif name in _SWITCHES:
            values = [not option.default]
        else:
            values = [_NAMED[name] if name in _NAMED else str(pair.folder / "tuned")]
        for value in values:
            yield Change("options", f"{name}={value}", options={name: value})


def _variables(pair: Pair) -> Iterator[Change]:
    """Every variable that a source which was read asks for, and those that libraries read."""
    asked = re.compile(r"(?:getenv|environ(?:\.get)?)[\[(]\s*[\"']([A-Z][A-Z0-9_]+)[\"']")
    found = set(_VALUES)
    for path in pair.reads():
        if path.endswith(".py"):
            found |= set(asked.findall(Path(path).read_text(errors="replace")))
    for name in sorted(found - {"PATH", "HOME", "PYTHONPATH"}):  # the script's own need them
        value = _VALUES.get(name, "1")
        yield Change("variables", f"{name}={value}", variable=(name, value))


def _remarks(pair: Pair) -> Iterator[Change]:
    """A comment at the end of every source that was read."""
    for path in pair.reads():
        if path.endswith(".py") and path.startswith(str(pair.folder)):
            name = path.removeprefix(f"{pair.folder}/")
            yield Change("remarks", name, name, lambda content: content + b"\n# another\n")


def _numbers(pair: Pair) -> Iterator[Change]:
    """One part in a thousand on what a function of the stack returns: each module's `forward`, each
    method of the scheduler and of the pipeline, each function that is written beside them."""

    def edit(name: str, content: bytes) -> bytes:
        return content + f"{_SCALE}{name} = _one_thing({name})\n".encode()

    for source, names in sorted(_functions(pair).items()):
        for name in sorted(names):
            yield Change("numbers", f"{source}: {name}", source, partial(edit, name))


def _functions(pair: Pair) -> dict[str, set[str]]:
    pipe = pair.opened
    modules = [
        m for part in pipe.components.values() if hasattr(part, "modules") for m in part.modules()
    ]
    found: dict[str, set[str]] = {}
    for kind in {type(module) for module in modules}:
        if "forward" in vars(kind) and (source := _source(kind)):
            found.setdefault(source, set()).add(f"{kind.__name__}.forward")
    for kind in (type(pipe), type(pipe.scheduler)):
        source = _source(kind)
        for name, value in vars(kind).items():
            if source and inspect.isfunction(value) and not name.startswith("__"):
                found.setdefault(source, set()).add(f"{kind.__name__}.{name}")
    for source, names in found.items():
        tree = ast.parse((pair.folder / source).read_text())
        names |= {part.name for part in tree.body if isinstance(part, ast.FunctionDef)}
    return found


def _source(kind: type) -> str | None:
    """Where in the pair's folder a class of its packages is written."""
    package = kind.__module__.partition(".")[0]
    spec = find_spec(package) if package in PACKAGES else None
    if spec is None or spec.origin is None:
        return None
    path = Path(inspect.getsourcefile(kind) or "").relative_to(Path(spec.origin).parent)
    return f"overlay/{package}/{path}"
