"""The embedded models' world: short clips of one moving shape, each with the caption that describes it.

A clip is a coloured circle, square or triangle that moves in one of four directions over a plain
background of another colour. Every clip is a pure function of an integer seed, so the training set, the
evaluation set and any test can name a clip by its number alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.float32]
"""Frames of one clip, `(T, H, W, 3)`, float32 in [0, 1]."""

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.12, 0.12),
    "green": (0.12, 0.65, 0.20),
    "blue": (0.15, 0.25, 0.85),
    "yellow": (0.92, 0.85, 0.15),
    "magenta": (0.80, 0.20, 0.75),
    "cyan": (0.20, 0.80, 0.85),
}
"""Shape colours, RGB in [0, 1]."""

BACKGROUNDS: dict[str, tuple[float, float, float]] = {
    "white": (0.92, 0.92, 0.92),
    "gray": (0.50, 0.50, 0.50),
    "black": (0.08, 0.08, 0.08),
}
"""Background colours, RGB in [0, 1]; all neutral, so none is mistaken for a shape's."""

SHAPES: tuple[str, ...] = ("circle", "square", "triangle")

DIRECTIONS: dict[str, tuple[float, float]] = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
}
"""Unit motion per direction as `(x, y)`, y pointing down as image rows do."""

EDGE_PX = 2.0
"""Width of the soft edge at 64x64, in pixels."""


@dataclass(frozen=True)
class Scene:
    """What a clip shows.

    Lengths are fractions of the frame's shorter side, positions of its width and height.
    """

    colour: str
    shape: str
    direction: str
    background: str
    radius: float
    start: tuple[float, float]
    travel: float

    @property
    def caption(self) -> str:
        """The sentence that the text encoder is trained on."""
        return _caption(self.colour, self.shape, self.direction, self.background)


def _caption(colour: str, shape: str, direction: str, background: str) -> str:
    return f"a {colour} {shape} moving {direction} on a {background} background"


def captions() -> list[str]:
    """Every caption of this world, in a fixed order."""
    return [
        _caption(colour, shape, direction, background)
        for colour in COLOURS
        for shape in SHAPES
        for direction in DIRECTIONS
        for background in BACKGROUNDS
    ]


def scene(seed: int) -> Scene:
    """The scene with this number; equal numbers give equal scenes on every platform."""
    rng = np.random.default_rng(seed)
    direction = list(DIRECTIONS)[rng.integers(len(DIRECTIONS))]
    radius = float(rng.uniform(0.16, 0.24))
    travel = float(rng.uniform(0.30, 0.45))
    # Along the motion the path is centred up to a small shift, so that the shape never leaves the frame.
    along = 0.5 + float(rng.uniform(-0.05, 0.05))
    across = float(rng.uniform(0.32, 0.68))
    dx, dy = DIRECTIONS[direction]
    start = (along - dx * travel / 2, across) if dx else (across, along - dy * travel / 2)
    return Scene(
        colour=list(COLOURS)[rng.integers(len(COLOURS))],
        shape=SHAPES[rng.integers(len(SHAPES))],
        direction=direction,
        background=list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))],
        radius=radius,
        start=start,
        travel=travel,
    )


def scene_from_middle(seed: int) -> Scene:
    """Scene `seed` with a shorter path that starts near the middle of the frame.

    Its first frame does not tell where the shape will go; in `scene` the start gives it away.
    """
    what = scene(seed)
    dx, dy = DIRECTIONS[what.direction]
    x, y = what.start
    across = y if dx else x
    along = 0.5 + ((x + dx * what.travel / 2 if dx else y + dy * what.travel / 2) - 0.5) / 2
    return replace(what, start=(along, across) if dx else (across, along), travel=what.travel * 0.6)


def draw(what: Scene, frames: int = 17, height: int = 64, width: int = 64) -> Frames:
    """Draw a scene.

    Args:
        what: the scene.
        frames: number of frames; the whole travel is covered whatever their number.
        height, width: frame size in pixels.

    Returns:
        The clip, `(frames, height, width, 3)` float32 in [0, 1], its edges softened over `EDGE_PX`,
        scaled to the size.
    """
    side = min(height, width)
    dx, dy = DIRECTIONS[what.direction]
    phase = np.linspace(0.0, 1.0, frames)[:, None, None]
    centre_x = (what.start[0] + dx * what.travel * phase) * width
    centre_y = (what.start[1] + dy * what.travel * phase) * height
    x = np.arange(width)[None, None, :] + 0.5 - centre_x
    y = np.arange(height)[None, :, None] + 0.5 - centre_y
    outside = _distance(what.shape, x, y, what.radius * side)
    edge = EDGE_PX * side / 64
    cover = np.clip(0.5 - outside / edge, 0.0, 1.0)
    cover = (cover * cover * (3 - 2 * cover))[..., None]
    shape_rgb = np.asarray(COLOURS[what.colour])
    background_rgb = np.asarray(BACKGROUNDS[what.background])
    return (cover * shape_rgb + (1 - cover) * background_rgb).astype(np.float32)


def clip(seed: int, frames: int = 17, height: int = 64, width: int = 64) -> tuple[Frames, str]:
    """The clip with this number and its caption; see `draw` for shape and range."""
    what = scene(seed)
    return draw(what, frames, height, width), what.caption


def _distance(
    shape: str, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], radius: float
) -> npt.NDArray[np.float64]:
    """Signed distance to the shape's outline in pixels, negative inside; exact near the edges."""
    if shape == "circle":
        return np.sqrt(x * x + y * y) - radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.88 * radius
    # A triangle that points up: the greatest distance to its three half-planes.
    slanted = np.abs(x) * np.cos(np.pi / 6) - (y + radius) * np.sin(np.pi / 6)
    return np.maximum(slanted, y - 0.75 * radius)
