"""The embedded micro models: real CogVideoX topologies, small enough to ship, and trained."""

from __future__ import annotations

import difflib
from pathlib import Path

MODELS: tuple[str, ...] = ("micro-2b", "micro-5b")


def model_path(name: str) -> Path:
    """The Diffusers pipeline folder of micro model `name`. Raises `KeyError` for an unknown name."""
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise KeyError(f"no micro model {name!r}{hint} Known: {', '.join(MODELS)}")
    return Path(__file__).parent / "weights" / name
