"""Stand-in for CogVideo's helpers."""

from importlib import import_module
from typing import Any

parallel: dict[str, Any] = {}


def set_context_parallel_group(size: int, group: Any) -> None:
    parallel.update(size=size, group=group)


def instantiate_from_config(config: Any) -> Any:
    module, _, name = config["target"].rpartition(".")
    return getattr(import_module(module), name)(**config.get("params", {}))
