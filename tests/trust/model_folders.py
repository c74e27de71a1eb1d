"""Copies of micro models whose files a test changes, and the checks before they are opened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers

from backends.checkpoints.sound_parts import check_model, check_pipeline, check_scheduler
from backends.micro import checkpoint_path

PARTS = ("text_encoder", "vae", "transformer")


def copied(model: str, folder: Path) -> Path:
    return Path(shutil.copytree(checkpoint_path(model), folder))


def check(folder: Path, component: str | None = None) -> None:
    """What opening `folder` checks, or one of its components where that is all."""
    if component in ("transformer", "vae"):
        kind = json.loads((folder / component / "config.json").read_text())["_class_name"]
        check_model(folder / component, getattr(diffusers, kind))
        return
    if component == "scheduler":
        kind = json.loads(config_file(folder, component).read_text())["_class_name"]
        check_scheduler(folder / component, getattr(diffusers, kind))
        return
    check_pipeline(folder, {name: folder / name for name in PARTS}, None)


def config_file(folder: Path, component: str) -> Path:
    return (
        folder
        / component
        / ("scheduler_config.json" if component == "scheduler" else "config.json")
    )


def change_settings(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
