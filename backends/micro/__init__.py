"""The embedded micro models: real CogVideoX topologies, small enough to ship, and trained."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from backends.errors import suggest

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

LORAS: tuple[str, ...] = ("micro-5b-magenta",)
"""LoRAs of these models, in Diffusers' format."""

MADE_PREFIX = "made:"
_RECIPES = "backends.roundtrip.made"
"""By name, as a backend is: the recipes are made of the models, which must not reach up to them."""


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
        raise KeyError(f"no {kind} {name!r}{suggest(name, names)}")
    return name


def checkpoint_path(given: str) -> Path:
    """What an option, a case or a command names: a micro model or LoRA, `made:NAME`, or a path.

    `made:NAME` is made when first asked for (`backends.roundtrip.made`); raises `CheckpointError` if it
    cannot be. A path is not checked.
    """
    if given.startswith(MADE_PREFIX):
        recipes = import_module(_RECIPES)
        return recipes.made(given.removeprefix(MADE_PREFIX))
    if given in (*MODELS, *LORAS):
        return Path(__file__).parent / "weights" / given
    return Path(given).expanduser()
