"""A configuration holds values. What would have Hydra import and call a name in one is refused."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, cast

from harness.errors import ConfigError

_PLUGINS = ("hydra._internal.core_plugins.", "hydra_plugins.")
"""Where installed launchers and sweepers live; they are packages of Hydra's, never the user's names."""
_STARTED_BY_HYDRA = ("hydra.launcher", "hydra.sweeper")
_QUIET = {"version": 1, "root": None, "disable_existing_loggers": False}
"""`hydra/job_logging=none`. Others may name any class as a handler."""


def refuse_named_code(tree: Mapping[str, Any]) -> None:
    """Raise `ConfigError` if the composed `tree`, Hydra's own part among it, names code to be called.

    An installed launcher or sweeper of Hydra may be chosen; callbacks, loggers and every other
    `_target_` may not.
    """
    for path, target in _targets("", tree):
        if path in _STARTED_BY_HYDRA and str(target).startswith(_PLUGINS):
            continue
        raise ConfigError(
            f"`{path}._target_`: {target!r} would be imported and called; a configuration chooses"
            " among installed launchers (hydra/launcher=...) and names no other code. Remove it, and"
            " see docs/trust.md"
        )
    hydra = cast("Mapping[str, Any]", tree.get("hydra") or {})
    if hydra.get("callbacks"):
        raise ConfigError(
            "`hydra.callbacks`: a configuration that runs code is refused; remove them, and see"
            " docs/trust.md"
        )
    for group in ("job_logging", "hydra_logging"):
        if hydra.get(group, _QUIET) != _QUIET:
            raise ConfigError(
                f"`hydra/{group}`: expected none, because loggers are made from names in the"
                " configuration; parity prints its own messages. Remove it"
            )


def _targets(path: str, node: Any) -> Generator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        mapping = cast("Mapping[Any, Any]", node)
        if "_target_" in mapping:
            yield path, mapping["_target_"]
        children = [(f"{path}.{key}" if path else str(key), mapping[key]) for key in mapping]
    elif isinstance(node, list):
        entries = cast("list[Any]", node)
        children = [(f"{path}.{index}", entry) for index, entry in enumerate(entries)]
    else:
        return
    for where, child in children:
        yield from _targets(where, child)
