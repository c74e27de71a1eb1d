"""A checkpoint's settings under canonical keys, whichever stack wrote them.

A key is the component and Diffusers' own name: `vae.scaling_factor`. A key that a Diffusers file
leaves out has the value that Diffusers' class would take, because that is what runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backends.checkpoints.config_keys import (
    ABSENT,
    CONFIG_FILES,
    FIXED,
    INDEX,
    SCHEDULER,
    TRANSFORMER,
    VAE,
)
from backends.checkpoints.diffusers.config import stated_settings
from backends.checkpoints.sat.config import ModelConfig
from backends.checkpoints.trust import read_mapping

_TEXT = "text_encoder/config.json"
_COMPONENTS = {
    INDEX: "pipeline",
    TRANSFORMER: "transformer",
    VAE: "vae",
    SCHEDULER: "scheduler",
    _TEXT: "text_encoder",
}
_BOOKKEEPING = frozenset(
    {"_diffusers_version", "_name_or_path", "_commit_hash", "transformers_version", "architectures",
     "dtype", "torch_dtype", "model_type"}
)  # fmt: skip


def diffusers_settings(path: Path) -> dict[str, Any]:
    """The settings of the pipeline folder `path`; a file that is absent contributes nothing.

    Raises `CheckpointError` for a file that is no JSON object.
    """
    settings: dict[str, Any] = {}
    others = {f"{file.parent.name}/{file.name}" for file in path.glob("*/config.json")}
    for file in dict.fromkeys((*CONFIG_FILES, _TEXT, *sorted(others))):
        if (path / file).is_file():
            component = _COMPONENTS.get(file, file.partition("/")[0])
            settings |= _stated(path / file, file, component)
    return settings


def component_settings(path: Path, component: str) -> dict[str, Any] | None:
    """The settings in one component's `config.json`, with its class's defaults; None without it.

    Raises `CheckpointError` for a file that is no JSON object.
    """
    return _stated(path, f"{component}/{path.name}", component) if path.is_file() else None


def _stated(path: Path, file: str, component: str) -> dict[str, Any]:
    """What `path` says, completed as the class that reads a pipeline's `file` completes it."""
    values = read_mapping(path)
    values |= {k: v for k, v in ABSENT.get(file, {}).items() if k not in values}
    values |= {k: v for f, k, _, v in FIXED if f == file and k not in values}
    return {f"{component}.{key}": v for key, v in values.items() if key not in _BOOKKEEPING}


def sat_settings(config: ModelConfig) -> dict[str, Any]:
    """What SAT's YAML states, and what its code fixes, in Diffusers' words."""
    files = stated_settings(config)
    for file, key, value, _ in FIXED:
        files[file][key] = value
    return {
        f"{_COMPONENTS[file]}.{key}": value
        for file, values in files.items()
        for key, value in values.items()
    }
