"""The frames that the player shows: lossless PNGs inside scripts, because a page that was opened
from a file may run a script beside it but may not read the pixels of an image beside it.
"""

from __future__ import annotations

import base64
import json
import math
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import imageio.v3 as iio
import numpy as np

from harness.records import RenderRecord
from harness.render.frames import Uint8Frames, read_frames
from harness.report.reading import Renders

_REEL_PIXELS = 4_000_000
"""Pixels in one script: few enough to load at once, enough that a small video is one script."""

PAIR_PIXELS = 24_000_000
"""Pixels of one side up to which every seed of a pair is put on the page; else the worst alone."""


@dataclass(frozen=True)
class Reel:
    """One render's frames: `scripts` hold `per_script` frames each, in order."""

    name: str
    scripts: list[str]
    per_script: int
    preview: str | None
    non_finite: int


@dataclass(frozen=True)
class Film:
    """Both sides of one seed.

    `largest` is the largest absolute difference of each frame, in grey levels, `worst_frame` the
    frame with the largest mean square and `first_frame` the first that differs at all. The three are
    empty or None where the shapes differ, and `worst_frame` also where every pixel is equal. `gain`
    makes the difference visible.
    """

    seed: int
    frames: int
    height: int
    width: int
    fps: int
    reference: Reel
    candidate: Reel
    comparable: bool
    largest: list[int]
    worst_frame: int | None
    first_frame: int | None
    gain: int
    remark: str


class Projector:
    """Writes frames into one assets folder; a render that several pairs show is written once."""

    def __init__(self, assets: Path, renders: Renders) -> None:
        self._folder = assets / "frames"
        self._folder.mkdir()
        self._renders = renders
        # a reference is shown by many pairs, one after the other
        self._video = lru_cache(maxsize=4)(self._read)

    def film(self, seed: int, reference: RenderRecord, candidate: RenderRecord) -> Film:
        """One seed of a pair. Raises: StoreError, when frames are missing or damaged."""
        a, b = self._video(reference.key), self._video(candidate.key)
        comparable = a.shape == b.shape
        gaps = _gaps(a, b) if comparable else []
        squares = [float(np.square(gap, dtype=np.uint32).mean()) for gap in gaps]
        differing = [index for index, square in enumerate(squares) if square]
        return Film(
            seed=seed,
            frames=max(len(a), len(b)),
            height=max(a.shape[1], b.shape[1]),
            width=max(a.shape[2], b.shape[2]),
            fps=int(reference.case.get("fps") or 8),
            reference=self._reel(reference, a),
            candidate=self._reel(candidate, b),
            comparable=comparable,
            largest=[int(gap.max()) for gap in gaps],
            worst_frame=max(differing, key=squares.__getitem__, default=None),
            first_frame=differing[0] if differing else None,
            gain=_gain(gaps),
            remark=_remark(a, b, comparable, bool(differing)),
        )

    def _read(self, key: str) -> Uint8Frames:
        return read_frames(self._renders.folder(key) / "frames.mkv")

    def _reel(self, record: RenderRecord, video: Uint8Frames) -> Reel:
        name = record.key[:20]
        per_script = max(1, _REEL_PIXELS // (video.shape[1] * video.shape[2]))
        scripts: list[str] = []
        for index, start in enumerate(range(0, len(video), per_script)):
            scripts.append(f"{name}-{index}.js")
            path = self._folder / scripts[-1]
            if not path.exists():
                pictures = [_png(frame) for frame in video[start : start + per_script]]
                path.write_text(f'parityFrames("{name}",{index},{json.dumps(pictures)});\n')
        non_finite = record.frames.non_finite if record.frames else 0
        return Reel(name, scripts, per_script, self._preview(record, f"{name}.mp4"), non_finite)

    def _preview(self, record: RenderRecord, file: str) -> str | None:
        source, target = self._renders.folder(record.key) / "preview.mp4", self._folder / file
        if not source.is_file():
            return None
        if not target.exists():
            shutil.copyfile(source, target)
        return file


def seeds_to_show(seeds: list[int], worst: int, pixels: int) -> list[int]:
    """The worst seed first, then the others if a pair of this size may show them."""
    others = [seed for seed in seeds if seed != worst]
    return [worst, *others] if pixels * len(seeds) <= PAIR_PIXELS else [worst]


def _gaps(a: Uint8Frames, b: Uint8Frames) -> list[Uint8Frames]:
    return [np.maximum(x, y) - np.minimum(x, y) for x, y in zip(a, b, strict=True)]


def _png(frame: Uint8Frames) -> str:
    encoded = iio.imwrite("<bytes>", frame, extension=".png", compress_level=4)
    return base64.b64encode(encoded).decode()


def _gain(gaps: list[Uint8Frames]) -> int:
    """The largest power of two that leaves 99.9 % of the changed values unclipped; 1 for equals."""
    counts = np.zeros(256, np.int64)
    for gap in gaps:
        counts += np.bincount(gap.reshape(-1), minlength=256)
    counts[0] = 0
    if not counts.any():
        return 1
    typical = int(np.searchsorted(np.cumsum(counts), 0.999 * counts.sum()))
    return 2 ** math.floor(math.log2(255 / typical))


def _remark(a: Uint8Frames, b: Uint8Frames, comparable: bool, differs: bool) -> str:
    if not comparable:
        shapes = " and ".join(" x ".join(map(str, video.shape[:3])) for video in (a, b))
        return (
            f"The two videos have different shapes, {shapes} (frames x height x width), so only the"
            " side-by-side view is offered."
        )
    return "" if differs else "Every pixel of every frame is equal."
