"""Opening whatever a path holds: a model folder, one component's folder, or one weight file."""

from __future__ import annotations

from pathlib import Path

from backends.checkpoints.opened.files import open_file
from backends.checkpoints.opened.folders import open_folder
from backends.checkpoints.opened.source import Source


def open_source(path: Path) -> Source:
    """Open a SAT or Diffusers model folder, one component's folder, or one weight file.

    Raises `CheckpointError` where nothing can be read at all.
    """
    return open_folder(path) if path.is_dir() else open_file(path)
