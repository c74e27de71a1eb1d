"""Reading the picture or clip that a case conditions on."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from backends.errors import InvalidRequest
from backends.micro import media_path

if TYPE_CHECKING:
    from PIL.Image import Image


def read_picture(given: str) -> Image:
    """The RGB picture that a case's `image` names. Raises `InvalidRequest` if it is none."""
    from PIL import Image, UnidentifiedImageError

    path = _existing("image", given)
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise InvalidRequest(f"image {path} cannot be read as a picture: {error}") from error


def read_clip(given: str) -> list[Image]:
    """Every frame, RGB, of the clip that a case's `video` names. Raises `InvalidRequest`.

    Animated PNG, GIF and WebP are read by Pillow and everything else as Diffusers' `load_video` does.
    """
    from PIL import Image, ImageSequence, UnidentifiedImageError

    path = _existing("video", given)
    try:
        with Image.open(path) as opened:
            return [frame.convert("RGB") for frame in ImageSequence.Iterator(opened)]
    except UnidentifiedImageError:
        pass  # no animated picture: a video file
    try:
        return list(import_module("diffusers.utils").load_video(str(path)))
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        raise InvalidRequest(
            f"video {path} cannot be read: {str(error).splitlines()[0]}; expected an animated PNG,"
            " GIF or WebP, or a video file that ffmpeg reads"
        ) from error


def _existing(what: str, given: str) -> Path:
    try:
        path = media_path(given)
    except KeyError as error:
        raise InvalidRequest(f"{what}={given!r}: {error.args[0]}") from error
    if not path.is_file():
        raise InvalidRequest(f"{what}={given!r}: there is no such file")
    return path
