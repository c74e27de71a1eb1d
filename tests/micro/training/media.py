"""Write the embedded picture and clip: `python -m tests.micro.training.media`."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from backends.micro import media_path
from tests.micro.training.clips import Scene, draw, scene, scene_from_middle
from tests.micro.training.vae_stage import EVALUATION_SEED

PICTURE_CAPTION = "a red circle moving left on a white background"
CLIP_CAPTION = "a blue square moving right on a gray background"


def picture_scene() -> Scene:
    """The first unseen scene of the picture's caption that starts in the middle of the frame."""
    return scene_from_middle(_first_seed(PICTURE_CAPTION))


def clip_scene() -> Scene:
    """The first unseen scene of the clip's caption."""
    return scene(_first_seed(CLIP_CAPTION))


def write(folder: Path) -> None:
    """The picture, 64x64, and the clip, 17 frames of it as an animated PNG; both without loss."""
    folder.mkdir(exist_ok=True)
    _pictures(picture_scene())[0].save(folder / "red-circle.png")
    first, *rest = _pictures(clip_scene())
    first.save(folder / "blue-square-clip.png", save_all=True, append_images=rest, duration=125)


def _pictures(what: Scene) -> list[Image.Image]:
    return [Image.fromarray(frame) for frame in np.rint(draw(what) * 255).astype(np.uint8)]


def _first_seed(caption: str) -> int:
    return next(s for s in count(EVALUATION_SEED) if scene(s).caption == caption)


if __name__ == "__main__":
    write(media_path("micro:red-circle.png").parent)
