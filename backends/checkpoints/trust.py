"""Model folders are data. What would make a loader run code from one is refused before it sees it.

Diffusers and transformers run a folder's own `.py` files and import any library that its
`model_index.json` names; which of their versions ask first differs. So the folder is read here:

    model_index.json   one pipeline class by name; components from diffusers and transformers only
    component folders  no Python or native code, no `auto_map`, no adapter that names another model
    pickled weights    read with `weights_only` alone, by a torch whose `weights_only` holds
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from backends.errors import CheckpointError, MissingPrerequisite

INDEX = "model_index.json"
LIBRARIES = ("diffusers", "transformers")
_CODE = frozenset({".py", ".pyc", ".pyd", ".so"})
_LOADS_CODE = ("auto_map", "custom_pipelines")
_SAFE_TORCH = (2, 6)
"""CVE-2025-32434: before 2.6 a crafted file runs code in spite of `weights_only`."""


def read_index(folder: Path) -> dict[str, Any]:
    """`model_index.json` of a pipeline's folder, whose components are all data.

    Raises `CheckpointError` for a folder that has none, or that names or holds code.
    """
    path = folder / INDEX
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {INDEX}; expected a folder that save_pretrained wrote. A SAT"
            " checkpoint must be converted first"
        )
    index = check_index(path)
    for name in index:
        if not name.startswith("_"):
            refuse_code(folder / name)
    return index


def check_index(path: Path) -> dict[str, Any]:
    """A `model_index.json` that names classes of diffusers and transformers only.

    Raises `CheckpointError` for one that is damaged, or that has a loader import anything else.
    """
    index = read_mapping(path)
    kind = index.get("_class_name")
    if not _is_name(kind):
        raise CheckpointError(
            f"{path}: `_class_name` is {kind!r}; expected the name of a pipeline of Diffusers. A list"
            " names a pipeline that brings its own code, which is not run"
        )
    _refuse_loading(path, index)
    for name, entry in index.items():
        # Other settings of a pipeline are numbers and flags; a component is [library, class].
        if isinstance(entry, list) and not name.startswith("_"):
            _check_component(path, name, cast("list[Any]", entry))
    return index


def _check_component(path: Path, name: str, entry: list[Any]) -> None:
    if entry == [None, None]:
        return
    library, kind = entry if len(entry) == 2 else (None, None)
    if library not in LIBRARIES or not _is_name(kind) or not _is_name(name):
        raise CheckpointError(
            f"{path}: component {name!r} is made by {entry!r}; expected a class of"
            f" {' or '.join(LIBRARIES)}. Code that a model folder brings or names is never run:"
            " use the released model's class, and remove the entry"
        )


def refuse_code(folder: Path) -> None:
    """Raise `CheckpointError` for a component's folder that holds code, or has a loader fetch some."""
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.suffix in _CODE:
            raise CheckpointError(
                f"{path} is code in a model folder, which is never run; remove it, and use the"
                " class that the model was released with"
            )
        if path.name == "adapter_config.json":
            raise CheckpointError(
                f"{path} would have transformers load the base model that it names instead of this"
                " folder's weights; merge the adapter into the weights, and remove it"
            )
        if path.name.endswith("config.json"):
            _refuse_loading(path, read_mapping(path))


def _refuse_loading(path: Path, config: Mapping[str, Any]) -> None:
    if found := next((key for key in _LOADS_CODE if config.get(key)), None):
        raise CheckpointError(
            f"{path}: `{found}` is {config[found]!r}, which has a loader run code that comes with a"
            " model; that is never done. Use the class that the model was released with, and remove it"
        )


def refuse_old_torch(path: Path) -> None:
    """Raise `MissingPrerequisite` where this process's torch would run code hidden in `path`."""
    import torch

    release = torch.__version__.split("+")[0].split(".")
    if tuple(int(part) for part in release[:2]) < _SAFE_TORCH:
        raise MissingPrerequisite(
            f"{path} holds pickled tensors, and torch {torch.__version__} can be made to run code by"
            " such a file (CVE-2025-32434); install torch 2.6 or later in the worker's interpreter,"
            " or save the weights as safetensors"
        )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.isidentifier()


def read_mapping(path: Path) -> dict[str, Any]:
    """A JSON file of settings. Raises `CheckpointError` for one that is missing or damaged."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({error}); fetch or convert it again"
        ) from error
    return parse_mapping(text, str(path))


def parse_mapping(text: str, where: str) -> dict[str, Any]:
    """The settings in a JSON `text`, which came from `where`. Raises `CheckpointError`."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{where} is not valid JSON ({error}); fetch or convert it again"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{where} holds {type(content).__name__}, expected a mapping of settings"
        )
    return dict(cast("Mapping[str, Any]", content))
