"""The settings of a model folder of either kind, without touching its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backends.checkpoints.opened.configs import diffusers_settings, sat_settings
from backends.checkpoints.sat.layout import model_yamls
from backends.checkpoints.sat.yaml_reader import read_config
from backends.errors import BackendError


def model_settings(path: Path) -> dict[str, Any] | None:
    """Canonical settings (`vae.scaling_factor`) of the model in `path`; None if it does not say.

    A Diffusers pipeline says by its JSON files, a SAT model by its YAML. Imports no torch.
    """
    if (path / "model_index.json").is_file():
        return diffusers_settings(path)

    try:
        return next((sat_settings(read_config(file)) for file in model_yamls(path)), None)
    except BackendError:
        return None
