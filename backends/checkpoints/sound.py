"""A component's settings, held to what the installed class that reads them takes.

Diffusers hands a `config.json` to the class as it is: a wrong type ends deep inside torch, and minus one
layer, a scale of zero or a misspelt key in a video that is wrong. What is right is read off the class:

    type      annotation and default of the argument of `__init__`; a JSON list is as good as a tuple
    sign      that of the default, which for a size, a scale or a ratio is positive
    choices   `Literal`, and the words that a scheduler compares the setting with
    key       an unknown one is refused only where a known one, which is absent, is spelt nearly so
"""

from __future__ import annotations

import inspect
import json
import math
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from backends.errors import CheckpointError, hint, nearest

LARGEST = 2**24
"""Of a setting that is a whole number. The largest default in Diffusers 0.42 is a `rope_theta` of
5,000,000; a size of 10^12 would be built until the memory ends."""

_MISSPELT = 0.85
"""Likeness from which on an unknown key is an absent one misspelt: `num_layer` 0.95, `scaling_facter`
0.93. The nearest two of one published configuration, `time_embed_dim` and `text_embed_dim`, have 0.86,
which is why the other must be absent."""

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word",
          list: "a list", dict: "a mapping", type(None): "null"}  # fmt: skip


@dataclass(frozen=True)
class _Setting:
    """What an argument takes. `kinds` is empty where nothing is known."""

    name: str
    kinds: frozenset[type]
    default: Any
    choices: tuple[str, ...]

    @property
    def whole(self) -> bool:
        return int in self.kinds and float not in self.kinds


def check_settings(path: Path, values: Mapping[str, Any], kind: type, nonzero: bool) -> None:
    """Raise `CheckpointError` for a setting in `values`, read from `path`, that `kind` does not take.

    `nonzero`: whether a number with a positive default must be positive; otherwise zero will do. Keys
    that begin with `_` are bookkeeping.
    """
    known = {setting.name: setting for setting in _settings(kind)}
    absent = [name for name in known if name not in values]
    for key, value in values.items():
        if key in known:
            if wanted := _refused(known[key], value, nonzero):
                raise CheckpointError(
                    f"{path}: `{key}` is {_shown(value)}; expected {wanted}, which is what"
                    f" {kind.__name__} takes. Correct it, or fetch or convert the folder again"
                )
        elif not key.startswith("_") and (near := nearest(key, absent, _MISSPELT)):
            raise CheckpointError(
                f"{path}: {kind.__name__} has no `{key}` and would ignore it; did you mean"
                f" {near!r}, which is absent? Correct the key"
            )


def accepted(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `values` that are arguments of `kind`."""
    names = {setting.name for setting in _settings(kind)}
    return {key: value for key, value in values.items() if key in names}


@cache
def _settings(kind: type) -> tuple[_Setting, ...]:
    return tuple(_read_settings(kind))


def _read_settings(kind: type) -> Iterator[_Setting]:
    start = cast(Any, kind).__init__
    try:
        hints: dict[str, Any] = get_type_hints(start)
    except Exception:  # a name that only a type checker imports
        hints = {}
    for name, parameter in inspect.signature(start).parameters.items():
        if name == "self" or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        default = None if parameter.default is parameter.empty else parameter.default
        hint = hints.get(name, parameter.annotation)
        if isinstance(hint, str) or hint is parameter.empty:
            hint = type(default) if default is not None else Any
        kinds = frozenset(_kinds(hint))
        if kinds and default is not None:
            kinds |= frozenset(_kinds(type(default)))
        elif bool in kinds:
            # Without a default there is nothing that confirms it: UniPC's `sigma_max: bool | None`.
            kinds |= {int, float}
        known = kinds | {type(None)} if kinds and default is None else kinds
        yield _Setting(name, known, default, _choices(kind, name, hint))


def _kinds(hint: Any) -> list[type]:
    """The JSON types that an annotation allows; none where it allows what is not known here."""
    if hint is Any or hint is object:
        return []
    origin = get_origin(hint)
    if origin is Literal:
        return [type(value) for value in get_args(hint)]
    if origin in (Union, types.UnionType):
        found = [_kinds(part) for part in get_args(hint)]
        return [kind for kinds in found for kind in kinds] if any(found) else []
    plain: Any = origin or hint
    if plain in _WORDS:
        return [plain]
    if isinstance(plain, type) and issubclass(plain, Mapping):
        return [dict]
    return [list] if isinstance(plain, type) and issubclass(plain, (tuple, Sequence)) else []


def _choices(kind: type, name: str, hint: Any) -> tuple[str, ...]:
    """The words that a setting may be; empty where any may.

    Before Diffusers 0.36 schedulers annotate `str`, and some still replace words outside `Literal`
    (UniPC's `midpoint`), so what the source compares the setting with counts, too.
    """
    options = [value for part in (hint, *get_args(hint)) for value in _literal(part)]
    if kind.__name__.endswith("Scheduler"):
        pattern = rf"\b{name} (?:[!=]= (\"[^\"]*\")|(?:not )?in [\[({{]([^\])}}]*))"
        source = inspect.getsource(import_module(kind.__module__))
        compared = re.findall(pattern, source)
        options += re.findall(r"\"([^\"]*)\"", " ".join(a or b for a, b in compared))
    return tuple(dict.fromkeys(options))


def _literal(hint: Any) -> list[str]:
    return [v for v in get_args(hint) if type(v) is str] if get_origin(hint) is Literal else []


def _refused(setting: _Setting, value: Any, nonzero: bool) -> str | None:
    """What was expected instead of `value`, in words; None if it will do."""
    if not setting.kinds:
        return None if _finite(value) else "a finite number"
    if not (type(value) in setting.kinds or (type(value) is int and float in setting.kinds)):
        return " or ".join(_WORDS[k] for k in _WORDS if k in setting.kinds)
    if type(value) is str and setting.choices and value not in setting.choices:
        return f"one of {', '.join(setting.choices)}{hint(value, setting.choices)}"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # UniPC's `lambda_min_clipped` is minus infinity unless it is set.
        infinite = not _finite(setting.default)
        return None if infinite else _out_of_range(setting, value, setting.default, nonzero)
    if isinstance(value, list):
        return _wrong_items(setting, cast("list[Any]", value), nonzero)
    return None


def _out_of_range(setting: _Setting, value: float, default: Any, nonzero: bool) -> str | None:
    if not math.isfinite(value):
        return "a finite number"
    if type(default) is bool and bool in setting.kinds:
        return None if value in (0, 1) else "true or false"
    if "dropout" in setting.name:
        return None if 0 <= value <= 1 else "a share from 0 to 1"
    # A default without a point is a count, whatever the annotation: `temporal_compression_ratio: float`.
    if (setting.whole or type(default) is int) and (value > LARGEST or value != int(value)):
        return f"a whole number up to {LARGEST}"
    if setting.name.endswith("_id"):
        return None  # some tokenizers' configurations say -1 for none
    if default is None:
        return "a whole number from 0" if setting.whole and value < 0 else None
    if default > 0 and (value < 0 or (value == 0 and (nonzero or setting.whole))):
        return "a whole number from 1" if setting.whole else "a positive number"
    return "a number from 0" if default == 0 and value < 0 else None


def _wrong_items(setting: _Setting, value: list[Any], nonzero: bool) -> str | None:
    """Entries are like those of the default, where it has some: of one type, and of its sign."""
    given = setting.default if isinstance(setting.default, (list, tuple)) else ()
    defaults = cast("list[Any]", json.loads(json.dumps(given, default=str)))
    numbers = [d for d in defaults if type(d) in (int, float)]
    whole = bool(numbers) and all(type(d) is int for d in numbers)
    for item in value:
        if not _finite(item):
            return "a list of finite numbers"
        if not defaults:
            continue
        if type(item) not in {type(d) for d in defaults} | ({int} if numbers else set[type]()):
            return f"a list like {defaults}"
        if numbers and min(numbers) > 0:
            wanted = frozenset({int if whole else float})
            entry = _Setting(setting.name, wanted, min(numbers), ())
            if said := _out_of_range(entry, item, min(numbers), nonzero):
                return f"a list of which each is {said}"
    if defaults and not value:
        return f"a list like {defaults}"
    return None


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
