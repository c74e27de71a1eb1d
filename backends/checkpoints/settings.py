"""The settings of a model folder of either kind, without touching its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backends.errors import BackendError


def model_settings(path: Path) -> dict[str, Any] | None:
    """Canonical settings (`vae.scaling_factor`) of the model in `path`; None if it does not say.

    A Diffusers pipeline says by its JSON files, a SAT model by its YAML. Imports no torch.
    """
    from backends.checkpoints.opened.configs import diffusers_settings, sat_settings

    if (path / "model_index.json").is_file():
        return diffusers_settings(path)
    for file in sorted(path.glob("*.y*ml")):
        if "model:" in file.read_text(errors="replace"):
            from backends.checkpoints.sat.yaml_reader import read_config

            try:
                return sat_settings(read_config(file))
            except BackendError:
                return None
    return None
