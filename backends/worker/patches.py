"""The patch seam: deliberate alterations of an opened pipeline, from a module the user names.

A plugin is a Python module named on the command line (`--plugin my_module`), never in YAML: naming
one runs its code. It registers functions, and a variant asks for one by name:

    from backends.worker.patches import patch

    @patch("no_rope")
    def no_rope(pipeline):
        pipeline.native().transformer.register_to_config(use_rotary_positional_embeddings=False)

The function receives the opened `Pipeline` (stages, `modules()`, `native()`). One that changes nothing
is an error. Returning None says that
it altered the pipeline in place; a returned `Pipeline` takes the opened one's place, and then closes
it in its own `close`. The native run and the stages must stay the same computation: alter modules,
configs and the native object, or wrap both.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path

from backends.base import Pipeline
from backends.errors import InvalidRequest, suggest

PatchFunction = Callable[[Pipeline], Pipeline | None]

_registered: dict[str, PatchFunction] = {}


def patch(name: str) -> Callable[[PatchFunction], PatchFunction]:
    """Register the decorated function as patch `name`. Raises `InvalidRequest` if it is taken."""

    def register(function: PatchFunction) -> PatchFunction:
        other = _registered.get(name)
        if other is not None and other.__module__ != function.__module__:
            raise InvalidRequest(
                f"patch {name!r} is registered by {other.__module__} and by {function.__module__};"
                " rename one of them"
            )
        _registered[name] = function
        return function

    return register


def load_providing(name: str, plugins: Sequence[str]) -> None:
    """Import the plugins whose text holds `name`; where patch `name` is then not there, all of them.

    A plugin is code that runs when it is imported, so a worker imports none that it can do without.
    """
    for plugin in plugins:
        if any(name in text for text in _texts(plugin)):
            load_plugin(plugin)
    if name not in _registered:
        for plugin in plugins:
            load_plugin(plugin)


def _texts(plugin: str) -> Iterator[str]:
    """The sources of a plugin: its file, or every one of its package."""
    spec = _check_plugin(plugin)
    paths = [Path(spec.origin or "")]
    for folder in spec.submodule_search_locations or ():
        paths += sorted(Path(folder).rglob("*.py"))
    for path in paths:
        yield path.read_text(encoding="utf-8", errors="replace")


def load_plugin(module_name: str) -> list[str]:
    """Import a plugin once and return the names it registered, sorted.

    Raises `InvalidRequest` if there is no such module or it registers nothing.
    """
    _check_plugin(module_name)
    import_module(module_name)
    names = sorted(
        name for name, function in _registered.items() if function.__module__ == module_name
    )
    if not names:
        raise InvalidRequest(
            f"plugin {module_name!r} registers no patch; decorate a function with"
            ' @patch("name") from backends.worker.patches'
        )
    return names


def names() -> list[str]:
    """Every registered patch, sorted."""
    return sorted(_registered)


def apply(name: str, pipeline: Pipeline, *, may_idle: bool = False) -> Pipeline:
    """Apply patch `name`; return the pipeline to use from now on.

    Raises `InvalidRequest` if it changed nothing, as a pass would then compare a pipeline with itself;
    not so where it `may_idle`, which is for a pipeline that another one judges as a whole.
    """
    from backends.worker.footprint import Footprint

    function = _patch(name)
    pipeline.modules()  # a pipeline may keep the list that it makes here
    before = Footprint(pipeline, function.__module__)
    replacement = function(pipeline)
    if replacement is not None and replacement is not pipeline:
        return replacement
    if not may_idle and not before.changed():
        raise InvalidRequest(
            f"patch {name!r} changed nothing: no weight, setting, hook or method of the opened pipeline,"
            " and no function of its stack, is another one than before. Check the names of modules and"
            " attributes that it looks for (`pipeline.modules()` lists them) and the conditions under"
            " which it acts"
        )
    return pipeline


def _check_plugin(module_name: str) -> ModuleSpec:
    try:
        spec = importlib.util.find_spec(module_name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise InvalidRequest(
            f"no plugin {module_name!r}: it must be an importable module in a .py file; check the"
            " name, run from its folder, or add the folder to PYTHONPATH"
        )
    return spec


def _patch(name: str) -> PatchFunction:
    if name not in _registered:
        more = "" if _registered else " (name a plugin with --plugin)"
        raise InvalidRequest(f"unknown patch {name!r}{suggest(name, _registered)}{more}")
    return _registered[name]
