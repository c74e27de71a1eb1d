"""The embedded micro models: real CogVideoX topologies, small enough to ship, and trained."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

MODELS: tuple[str, ...] = (
    "micro-2b",
    "micro-5b",
    "micro-5b-i2v",
    "micro-1.5-5b",
    "micro-1.5-5b-i2v",
)

MEDIA_PREFIX = "micro:"
MEDIA: tuple[str, ...] = ("red-circle.png", "blue-square-clip.png")
"""Pictures and clips that ship with the models; a case names them with the prefix `micro:`."""


def model_path(name: str) -> Path:
    """The Diffusers pipeline folder of micro model `name`. Raises `KeyError` for an unknown name."""
    return Path(__file__).parent / "weights" / _known("micro model", name, MODELS)


def media_path(given: str) -> Path:
    """The file that a case's `image` or `video` names: `micro:NAME`, or a path.

    Raises `KeyError` for an embedded name that does not exist. A path is not checked.
    """
    if not given.startswith(MEDIA_PREFIX):
        return Path(given).expanduser()
    name = given.removeprefix(MEDIA_PREFIX)
    return Path(__file__).parent / "media" / _known("embedded picture", name, MEDIA)


def _known(kind: str, name: str, names: Sequence[str]) -> str:
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise KeyError(f"no {kind} {name!r}{hint} Known: {', '.join(names)}")
    return name
