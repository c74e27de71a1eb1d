"""Settings of a YAML or JSON file read by sections; errors name file, place and what was expected."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from backends.errors import CheckpointError, Unsupported

T = TypeVar("T")


class Section:
    """A mapping of a YAML file, read key by key; `done` complains about keys that nobody read."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self._where = where
        self._read: set[str] = set()

    @staticmethod
    def from_file(path: Path) -> Section:
        """Parse a YAML file with the safe loader. Raises `CheckpointError` if it is not a
        mapping."""
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise CheckpointError(
                f"cannot read {path}: {error}; expected one of CogVideo's sat/configs/*.yaml"
            ) from error
        if not isinstance(values, Mapping):
            raise CheckpointError(f"{path} holds {type(values).__name__}, expected a YAML mapping")
        return Section(cast(Mapping[str, Any], values), str(path))

    @property
    def where(self) -> str:
        """The file, and the place in it."""
        return self._where

    def has(self, key: str) -> bool:
        """Whether `key` is there and not null."""
        return self._values.get(key) is not None

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        """The value of `key`, of `kind` (an int will do for a float); without `default` it must be
        there."""
        self._read.add(key)
        value = self._values.get(key, default)
        if value is None:
            raise CheckpointError(
                f"{self._where}: key {key!r} is missing, expected {kind.__name__}"
            )
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise CheckpointError(
                f"{self._where}: {key!r} is {value!r}, expected {kind.__name__}; correct the file"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise CheckpointError(f"{self._where}: {key!r} is {value}, expected a finite number")
        return cast(T, value)

    def positive(self, key: str, default: int | None = None) -> int:
        """The value of `key`, an integer of at least 1."""
        value = self.get(key, int, default)
        if value < 1:
            raise CheckpointError(f"{self._where}: {key!r} is {value}, expected an integer from 1")
        return value

    def positive_real(self, key: str, default: float | None = None) -> float:
        """The value of `key`, a finite number above 0."""
        value = self.get(key, float, default)
        if value <= 0:
            raise CheckpointError(f"{self._where}: {key!r} is {value}, expected a positive number")
        return value

    def number(self, key: str, kind: type[Any], default: Any = None) -> Any:
        """The value of `key`: a flag, an integer of at least 1, or a real number above 0.

        `kind` is bool, int or float; `default` is the value of an absent key, None if it must be there.
        """
        if kind is bool:
            return self.get(key, bool, default)
        return (self.positive if kind is int else self.positive_real)(key, default)

    def multipliers(self, key: str) -> tuple[int, ...]:
        """The value of `key`, a list of integers of at least 1."""
        values = cast("list[object]", self.get(key, list))
        if not values or not all(type(value) is int and value > 0 for value in values):
            raise CheckpointError(
                f"{self._where}: {key!r} is {values!r}, expected a list of integers from 1"
            )
        return tuple(cast("list[int]", values))

    def section(self, key: str) -> Section:
        """The mapping under `key`; an absent or empty `params` reads as an empty mapping."""
        self._read.add(key)
        value = self._values.get(key)
        if value is None and key == "params":
            value = {}
        if not isinstance(value, Mapping):
            raise CheckpointError(f"{self._where}: section {key!r} is missing or not a mapping")
        return Section(cast(Mapping[str, Any], value), f"{self._where}: {key}")

    def sections(self, key: str) -> list[Section]:
        """The list of mappings under `key`."""
        entries = cast(list[Any], self.get(key, list))
        if not all(isinstance(entry, Mapping) for entry in entries):
            raise CheckpointError(f"{self._where}: {key!r} must be a list of mappings")
        return [Section(entry, f"{self._where}: {key}[{i}]") for i, entry in enumerate(entries)]

    def target(self, known: Mapping[str, T]) -> T:
        """What `known` says about this section's `target`, a class name that is never imported."""
        name = self.get("target", str)
        if name not in known:
            raise Unsupported(
                f"{self._where}: target {name!r} is not known to the `sat` backend, which imports"
                f" nothing that a config names; known here: {', '.join(known)}"
            )
        return known[name]

    def require(self, key: str, expected: object, default: object) -> None:
        """Refuse every value of `key` but `expected`; an absent key counts as `default`."""
        self._read.add(key)
        value = self._values.get(key, default)
        if value != expected:
            raise Unsupported(
                f"{self._where}: {key} is {value!r}; the `sat` backend supports {expected!r} only"
            )

    def ignore(self, *keys: str) -> None:
        """Mark keys that do not change what is rendered."""
        self._read.update(keys)

    def done(self) -> None:
        """Refuse keys that were not read: they would change the model in a way not understood."""
        unknown = sorted(set(self._values) - self._read)
        if unknown:
            raise Unsupported(
                f"{self._where}: unknown keys {', '.join(unknown)}; the `sat` backend reads the keys"
                " of CogVideo's published configs. Remove them if they do not matter"
            )


def only(section: Section, target: str) -> Section:
    """The `params` of a section that may have one target only. Raises `Unsupported` for another."""
    section.target({target: True})
    return section.section("params")
