"""Backends by name. A row is `name -> "module:Class"`; nothing is imported before it is asked for.

Packages outside this project add rows through the entry-point group `parity.backends`; a caller lends
an instance for as long as a block lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, cast

from backends.base import Approximation, Backend
from backends.errors import InvalidRequest, suggest
from backends.worker import extras

_ROWS = {
    "diffusers": "backends.diffusers.adapter:DiffusersBackend",
    "diffusers_offload": "backends.diffusers.adapter:DiffusersBackend",
    "sat": "backends.sat.adapter:SatBackend",
}
_EXTRAS = {"sat": "sat"}
"""The backends whose stack comes with an extra (`backends.worker.extras`)."""

_lent: dict[str, Backend] = {}


@contextmanager
def lend(name: str, backend: Backend) -> Generator[None]:
    """Let `load(name)` return `backend` in this process within the block."""
    if name in _lent or name in _rows():
        raise InvalidRequest(f"a backend named {name!r} exists already; choose another name")
    _lent[name] = backend
    try:
        yield
    finally:
        del _lent[name]


def _rows() -> dict[str, str]:
    found = {point.name: point.value for point in entry_points(group="parity.backends")}
    return {**found, **_ROWS}


def names() -> list[str]:
    """Every backend name, sorted."""
    return sorted(_rows())


def load(name: str) -> Backend:
    """Import and construct backend `name`. Raises `InvalidRequest` for an unknown name."""
    if name in _lent:
        return _lent[name]
    rows = _rows()
    if name not in rows:
        raise InvalidRequest(f"unknown backend {name!r}{suggest(name, rows)}")
    module, attribute = rows[name].split(":")
    return cast(Backend, getattr(import_module(module), attribute)())


def require(name: str) -> None:
    """Raise `MissingPrerequisite` if this interpreter lacks the extra that backend `name` needs."""
    if name in _EXTRAS:
        extras.require(_EXTRAS[name])


def approximations(name: str, options: Mapping[str, Any]) -> Mapping[str, Approximation]:
    """The options of backend `name` that are meant to change the result; none unless it says so.

    A backend that only another interpreter can import says nothing here, so none of its options may
    change anything.
    """
    try:
        backend = load(name)
    except ImportError:
        return {}
    declared: Callable[[Mapping[str, Any]], Mapping[str, Approximation]] | None = getattr(
        backend, "approximations", None
    )
    return {} if declared is None else declared(options)
