"""Read a clip of the micro world back: which colour, which direction, which background.

Classical image analysis, no learning: the background is the most common border colour, the shape is
what differs from it, its colour is the mean over its core, its motion the path of its centroid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tests.micro.training.clips import BACKGROUNDS, COLOURS, DIRECTIONS, Frames

SHAPE_CONTRAST = 0.35
"""A pixel at least this far from the background (Euclidean RGB) belongs to the shape."""

LEAST_PIXELS = 12
"""Frames with a smaller shape at 64x64 do not vote on its path."""

LEAST_TRAVEL = 0.12
"""Motion, as a fraction of the frame's side, below which a clip counts as still."""


@dataclass(frozen=True)
class Seen:
    """What a clip shows; None where nothing can be said."""

    colour: str | None
    direction: str | None
    background: str | None


def _nearest(rgb: npt.NDArray[np.float64], palette: dict[str, tuple[float, float, float]]) -> str:
    return min(palette, key=lambda name: float(np.linalg.norm(rgb - np.asarray(palette[name]))))


def look(frames: Frames) -> Seen:
    """Read one clip, (T, H, W, 3) in [0, 1]."""
    border = np.concatenate(
        [frames[:, :2].reshape(-1, 3), frames[:, -2:].reshape(-1, 3),
         frames[:, :, :2].reshape(-1, 3), frames[:, :, -2:].reshape(-1, 3)]
    )  # fmt: skip
    ground = np.median(border, axis=0).astype(np.float64)
    mask = np.linalg.norm(frames - ground, axis=-1) > SHAPE_CONTRAST
    return Seen(
        colour=_colour(frames, mask, ground),
        direction=_direction(mask),
        background=_nearest(ground, BACKGROUNDS),
    )


def _colour(
    frames: Frames, mask: npt.NDArray[np.bool_], ground: npt.NDArray[np.float64]
) -> str | None:
    if mask.sum() < LEAST_PIXELS:
        return None
    pixels = frames[mask].astype(np.float64)
    # Soft edges mix with the background; the half that differs most from it is the shape's own colour.
    contrast = np.linalg.norm(pixels - ground, axis=1)
    return _nearest(np.median(pixels[contrast >= np.median(contrast)], axis=0), COLOURS)


def _direction(mask: npt.NDArray[np.bool_]) -> str | None:
    count, height, width = mask.shape
    least = LEAST_PIXELS * height * width / 64**2
    times = [t for t in range(count) if mask[t].sum() >= least]
    if len(times) < max(2, count // 2):
        return None
    centres = np.array([np.argwhere(mask[t]).mean(axis=0) for t in times])
    slope = np.polyfit(times, centres, 1)[0] * (count - 1)  # pixels over the clip, (y, x)
    motion = np.array([slope[1] / width, slope[0] / height])
    if np.abs(motion).max() < LEAST_TRAVEL:
        return None
    return max(DIRECTIONS, key=lambda name: float(motion @ np.asarray(DIRECTIONS[name])))
