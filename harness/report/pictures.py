"""What a pair looks like: PNGs of lossless frames, their difference, and copied previews."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as iio
import numpy as np

from harness.errors import StoreError
from harness.frames import Uint8Frames, read_frames
from harness.records import RenderRecord
from harness.report.reading import Renders

_ENLARGED_PX = 384
_STRIP_PX = 4096
_STRIP_FRAMES = 9


@dataclass(frozen=True)
class Picture:
    """An image file in the assets folder and its size in pixels."""

    file: str
    width: int
    height: int


@dataclass(frozen=True)
class Side:
    """One render's pictures: the chosen frames in a row, and the worst frame where there is one."""

    title: str
    strip: Picture
    worst: Picture | None
    preview: str | None
    poster: str | None


@dataclass(frozen=True)
class Gallery:
    """Frames of one seed, side by side.

    `difference` is absolute, multiplied by `gain`, and clipped at white; it is None where the two
    videos are equal or have different shapes, which `remark` then says.
    """

    seed: int
    frames: list[int]
    sides: list[Side]
    difference: Side | None
    gain: int
    worst_frame: int | None
    remark: str | None

    @property
    def enlarge(self) -> int:
        """The whole factor by which a single frame is shown larger, so that pixels stay pixels."""
        frame = self.sides[0].strip
        edge = max(frame.width // len(self.frames), frame.height)
        return max(1, _ENLARGED_PX // edge)


class Painter:
    """Writes pictures into one assets folder; a file that several pairs show is written once."""

    def __init__(self, assets: Path, renders: Renders) -> None:
        self._assets = assets
        self._renders = renders

    def gallery(
        self, anchor: str, seed: int, reference: RenderRecord, candidate: RenderRecord
    ) -> Gallery:
        """Show one seed of a pair. Raises: StoreError, when frames are missing or damaged."""
        a, b = self._frames(reference), self._frames(candidate)
        shown = _spread(a)
        sides = [("reference", reference, a), ("candidate", candidate, b)]
        if a.shape != b.shape:
            remark = f"The shapes differ: {a.shape[:3]} and {b.shape[:3]} (frames, height, width)."
            plain = [self._side(title, record, video, None) for title, record, video in sides]
            return Gallery(seed, shown, plain, None, 1, None, remark)
        if np.array_equal(a, b):
            remark = "Every pixel of every frame is equal, so one side stands for both."
            only = self._side("reference = candidate", reference, a, None)
            return Gallery(seed, shown, [only], None, 1, None, remark)
        gap = np.maximum(a, b) - np.minimum(a, b)
        gain = _gain(gap)
        difference = np.minimum(gap.astype(np.uint16) * gain, 255).astype(np.uint8)
        worst = int(np.argmax([np.square(frame, dtype=np.uint32).mean() for frame in gap]))
        return Gallery(
            seed=seed,
            frames=shown,
            sides=[self._side(title, record, video, worst) for title, record, video in sides],
            difference=Side(
                title=f"difference x {gain}",
                strip=self._strip(f"{anchor}-difference.png", difference),
                worst=self._picture(f"{anchor}-difference-{worst}.png", difference[worst]),
                preview=None,
                poster=None,
            ),
            gain=gain,
            worst_frame=worst,
            remark=None,
        )

    def _frames(self, record: RenderRecord) -> Uint8Frames:
        return read_frames(self._renders.folder(record.key) / "frames.mkv")

    def _side(
        self, title: str, record: RenderRecord, video: Uint8Frames, worst: int | None
    ) -> Side:
        name = record.key[:20]
        return Side(
            title=title,
            strip=self._strip(f"{name}.png", video),
            worst=None if worst is None else self._picture(f"{name}-{worst}.png", video[worst]),
            preview=self._preview(record, f"{name}.mp4"),
            poster=self._picture(f"{name}-poster.png", video[0]).file,
        )

    def _strip(self, file: str, video: Uint8Frames) -> Picture:
        return self._picture(file, np.concatenate(video[_spread(video)], axis=1))

    def _picture(self, file: str, pixels: Uint8Frames) -> Picture:
        path = self._assets / file
        if not path.exists():
            iio.imwrite(path, pixels)
        return Picture(file, width=pixels.shape[1], height=pixels.shape[0])

    def _preview(self, record: RenderRecord, file: str) -> str:
        source, target = self._renders.folder(record.key) / "preview.mp4", self._assets / file
        if not source.is_file():
            raise StoreError(f"{source} is missing; delete {source.parent} and render again")
        if not target.exists():
            shutil.copyfile(source, target)
        return file


def _spread(video: Uint8Frames) -> list[int]:
    """Frames spread evenly from first to last, as many as make a strip of sensible width."""
    frames, _, width, _ = video.shape
    count = min(frames, _STRIP_FRAMES, max(2, _STRIP_PX // width))
    return [int(i) for i in np.rint(np.linspace(0, frames - 1, count))]


def _gain(gap: Uint8Frames) -> int:
    """The largest power of two that leaves 99.9 % of the changed values unclipped."""
    counts = np.bincount(gap.reshape(-1), minlength=256)
    counts[0] = 0
    typical = int(np.searchsorted(np.cumsum(counts), 0.999 * counts.sum()))
    return 2 ** math.floor(math.log2(255 / typical))
