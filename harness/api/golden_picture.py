"""What a mismatch with a golden looks like: its size, its place, and a picture of both sides.

The accepted video is taken from the store while that has it. Elsewhere, as in CI, its tiles stand for
it, which a golden always keeps: the mean colour of each cell of a grid, in every frame.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.render.frames import Uint8Frames

GRID = 8
"""Cells along each side. 192 bytes a frame: 49 frames add 13 kB to a golden, which stays reviewable."""
_COLUMNS = 5
_TILE_PX = 24


def tiles_of(frames: Uint8Frames) -> Uint8Frames:
    """(T, GRID, GRID, 3): the mean of every cell, rounded."""
    count, height, width, _ = frames.shape
    rows, columns = (np.arange(GRID + 1) * size // GRID for size in (height, width))
    tiles = np.empty((count, GRID, GRID, 3), np.uint8)
    for i in range(GRID):
        for j in range(GRID):
            top, left = rows[i], columns[j]
            cell = frames[:, top : max(rows[i + 1], top + 1), left : max(columns[j + 1], left + 1)]
            tiles[:, i, j] = np.rint(cell.mean(axis=(1, 2)))
    return tiles


def packed(tiles: Uint8Frames) -> str:
    """Tiles as text for a golden's file."""
    return base64.b64encode(np.ascontiguousarray(tiles).tobytes()).decode()


def unpacked(text: str) -> Uint8Frames:
    """The tiles that `packed` wrote. Raises `ValueError` for another text."""
    values = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    return values.reshape(-1, GRID, GRID, 3)


@dataclass(frozen=True)
class Mismatch:
    """Two videos of one shape; `exact` is false where the accepted one is there as tiles alone."""

    accepted: Uint8Frames
    result: Uint8Frames
    exact: bool

    def sentence(self) -> str:
        """Size, worst frame and worst region, in grey levels of 255."""
        gaps = self._gaps()
        what = "pixels" if self.exact else "means of an 8 x 8 grid (the accepted video is not here)"
        if not gaps.any():
            return f"the {what} are equal"
        frame = self._worst()
        share = 100 * float((gaps > 0).mean())
        psnr = -10 * np.log10(float((gaps.astype(float) ** 2).mean()) / 255**2)
        region = tiles_of(np.repeat(gaps[frame][None, :, :, None], 3, axis=3).astype(np.uint8))
        row, column = np.unravel_index(int(region[0, :, :, 0].argmax()), (GRID, GRID))
        return (
            f"{share:.1f} % of the {what} differ, by up to {gaps.max()} of 255 grey levels, PSNR"
            f" {psnr:.1f} dB; worst in frame {frame} of {len(gaps)}, in row {row + 1} and column"
            f" {column + 1} of an 8 x 8 grid"
        )

    def write(self, path: Path) -> Path:
        """A contact sheet: accepted, result and difference (stretched to white) below each other."""
        import imageio.v3 as imageio

        gaps, count = self._gaps(), len(self.accepted)
        shown = sorted({self._worst(), *np.linspace(0, count - 1, _COLUMNS).astype(int).tolist()})
        stretched = (gaps * (255 // max(1, int(gaps.max())))).astype(np.uint8)
        rows = [self.accepted, self.result, np.repeat(stretched[..., None], 3, axis=3)]
        sheet = np.concatenate([np.concatenate(list(row[shown]), axis=1) for row in rows], axis=0)
        if not self.exact:
            sheet = sheet.repeat(_TILE_PX, axis=0).repeat(_TILE_PX, axis=1)
        path.parent.mkdir(parents=True, exist_ok=True)
        imageio.imwrite(path, sheet)
        return path

    def _gaps(self) -> NDArray[np.int16]:
        """(T, H, W): the largest difference over the channels."""
        apart = np.abs(self.accepted.astype(np.int16) - self.result.astype(np.int16))
        return apart.max(axis=3)

    def _worst(self) -> int:
        return int((self._gaps().astype(float) ** 2).mean(axis=(1, 2)).argmax())
