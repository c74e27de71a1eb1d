"""Frames as bytes: the one place where they are quantised, hashed, stored without loss and read.

Everything that compares, hashes or shows pixels uses what `quantise` made. A stored video carries
its own shape and hash and `read_frames` checks both, because FFmpeg decodes a damaged or truncated
file to fewer or altered frames and still exits with 0.
"""

from __future__ import annotations

import hashlib
import math
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from harness.errors import DiskFullError, ParityError, StoreError

Uint8Frames = NDArray[np.uint8]
"""A video (T, H, W, 3), red first."""

NOT_FINITE_COLOUR = (255, 0, 255)
"""What a pixel with NaN or an infinity is stored as."""

_SEAL = re.compile(r"parity-frames (\d+)x(\d+)x(\d+) ([0-9a-f]{64})")
_HEAD_BYTES = 1 << 16
"""The metadata lie before the first frame."""

_PREVIEW_EDGE_PX = 384


class FramesError(ParityError):
    """The frames are not a video in the canonical layout and range."""


def quantise(frames: NDArray[Any]) -> Uint8Frames:
    """Round float frames (T, H, W, 3) in [0, 1] to uint8: rint(255 x), a tie to the even value.

    Truncation, which some stacks use, would darken the video by half a grey level on average. A
    pixel with NaN or an infinity in any channel becomes `NOT_FINITE_COLOUR`, so that a broken
    render can be kept and looked at; whoever calls records how many values were not finite.

    Raises: FramesError, for another layout or dtype, and for finite values outside [0, 1].
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise FramesError(
            f"frames have shape {frames.shape}, expected (T, H, W, 3) with no empty axis; convert"
            " them in the adapter"
        )
    if frames.dtype.kind != "f":
        raise FramesError(
            f"frames are {frames.dtype}, expected floats in [0, 1]; quantise once, and only here"
        )
    quantised = np.empty(frames.shape, np.uint8)
    for index, frame in enumerate(frames):
        quantised[index] = _quantise_frame(frame.astype(np.float32), index)
    return quantised


def _quantise_frame(frame: NDArray[np.float32], index: int) -> Uint8Frames:
    finite = np.isfinite(frame)
    shown = np.where(finite, frame, np.float32(0.0))
    low, high = float(shown.min()), float(shown.max())
    if low < 0.0 or high > 1.0:
        raise FramesError(
            f"frame {index} holds values from {low:.6g} to {high:.6g}, expected [0, 1]; let the"
            " adapter apply its stack's own post-processing"
        )
    levels = np.rint(shown * np.float32(255.0)).astype(np.uint8)
    levels[~finite.all(axis=-1)] = NOT_FINITE_COLOUR
    return levels


def frames_sha256(frames: Uint8Frames) -> str:
    """SHA-256 over shape and bytes: the identity of a video, whatever file it lies in."""
    _check_bytes(frames)
    digest = hashlib.sha256(_hash_head(frames.shape))
    digest.update(np.ascontiguousarray(frames).data)
    return digest.hexdigest()


def _hash_head(shape: tuple[int, ...]) -> bytes:
    return f"uint8 {shape}\n".encode()


def write_lossless(path: Path, frames: Uint8Frames, fps: int) -> None:
    """Store a video without loss: FFV1 in Matroska, with shape and hash in its metadata.

    The pixel format is bgr0: FFV1 keeps its bytes, whereas a way through yuv444p is not exact.

    Raises: FramesError for another layout, StoreError when the file cannot be written.
    """
    _check_bytes(frames)
    shape = "x".join(str(edge) for edge in frames.shape[:3])
    seal = f"parity-frames {shape} {frames_sha256(frames)}"
    codec = ["-c:v", "ffv1", "-level", "3", "-g", "1", "-pix_fmt", "bgr0", "-f", "matroska"]
    codec += ["-fflags", "+bitexact"]  # else FFmpeg writes a random identifier into every file
    _encode(path, frames, fps, [*codec, "-metadata", f"comment={seal}"])


@dataclass(frozen=True)
class StoredVideo:
    """A video that `write_lossless` stored: an iterable of its frames, decoded while it is read.

    Never more than a few frames are in memory, however long the video is. `shape` is (T, H, W, 3),
    `sha256` what `frames_sha256` gave for it. Only a reader that comes to the end knows that the
    frames were those that were stored: a frame by itself proves nothing.
    """

    path: Path
    shape: tuple[int, int, int, int]
    sha256: str

    @classmethod
    def open(cls, path: Path) -> StoredVideo:
        """Raises: StoreError, when the file is missing or was not written by `write_lossless`."""
        if not path.is_file():
            raise StoreError(f"{path} is missing; render again")
        with path.open("rb") as file:
            seal = _SEAL.search(file.read(_HEAD_BYTES).decode("latin-1"))
        if seal is None:
            raise StoreError(
                f"{path} is damaged or was not written by this program; delete {path.parent} and"
                " render again"
            )
        count, height, width = (int(edge) for edge in seal.groups()[:3])
        return cls(path, (count, height, width, 3), seal.group(4))

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        return np.dtype(np.uint8)

    def __iter__(self) -> Iterator[Uint8Frames]:
        """Each frame (H, W, 3) in order. Raises: StoreError, at the end at the latest, when these
        are not the frames that were stored."""
        command = [*_ffmpeg_command(), "-v", "error", "-i", f"file:{self.path}", "-map", "0:v:0"]
        command += ["-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
        digest = hashlib.sha256(_hash_head(self.shape))
        size = math.prod(self.shape[1:])
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            try:
                stream = cast("IO[bytes]", process.stdout)
                for _ in range(self.shape[0]):
                    content = stream.read(size)
                    if len(content) < size:
                        raise self._damaged()
                    digest.update(content)
                    yield np.frombuffer(content, np.uint8).reshape(self.shape[1:])
                if stream.read(1) or digest.hexdigest() != self.sha256:
                    raise self._damaged()
            finally:
                process.kill()

    def _damaged(self) -> StoreError:
        return StoreError(
            f"{self.path} is damaged: it does not decode to the {self.shape[0]} frames that were"
            f" stored; delete {self.path.parent} and render again"
        )


def read_frames(path: Path) -> Uint8Frames:
    """Read what `write_lossless` stored, to the bit: a whole `StoredVideo`.

    Raises: StoreError, when the file is missing, was not written by `write_lossless`, or does not
        give the frames that were stored.
    """
    video = StoredVideo.open(path)
    frames = np.empty(video.shape, np.uint8)
    for index, frame in enumerate(video):
        frames[index] = frame
    return frames


def write_preview(path: Path, frames: Uint8Frames, fps: int) -> None:
    """Write a small H.264 video for people. It is lossy: nothing may be measured on it.

    A tiny video is enlarged by a whole factor, nearest neighbour, so that pixels stay pixels; an
    odd edge, which H.264 cannot hold, is padded by repeating its last row or column.

    Raises: FramesError for another layout, StoreError when the file cannot be written.
    """
    _check_bytes(frames)
    factor = max(1, _PREVIEW_EDGE_PX // max(frames.shape[1:3]))
    enlarged = frames.repeat(factor, axis=1).repeat(factor, axis=2)
    odd = [(0, edge % 2) for edge in enlarged.shape[1:3]]
    enlarged = np.pad(enlarged, [(0, 0), *odd, (0, 0)], mode="edge")
    # without the matrix and its label, players would guess one and shift the colours
    colour = "-vf scale=out_color_matrix=bt709:out_range=tv -colorspace bt709"
    primaries = "-color_primaries bt709 -color_trc bt709 -color_range tv"
    codec = "-c:v libx264 -preset veryfast -crf 18 -pix_fmt yuv420p -movflags +faststart -f mp4"
    options = f"{colour} {primaries} {codec}".split()
    _encode(path, enlarged, fps, [*options, "-metadata", "title=lossy preview, not for comparison"])


def _check_bytes(frames: NDArray[Any]) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise FramesError(
            f"frames are {frames.dtype} of shape {frames.shape}, expected uint8 (T, H, W, 3) with"
            " no empty axis; call `quantise` first"
        )


def _encode(path: Path, frames: Uint8Frames, fps: int, options: Sequence[str]) -> None:
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(fps), "-i", "-"]
    done = _ffmpeg(
        ["-v", "error", "-y", *raw, *options, f"file:{path}"],
        stdin=np.ascontiguousarray(frames).tobytes(),
    )
    if done.returncode != 0:
        path.unlink(missing_ok=True)
        if b"No space left" in done.stderr:
            raise DiskFullError(path)
        raise StoreError(
            f"cannot write {path}: {done.stderr.decode(errors='replace').strip()}; check that the"
            " folder exists and that its disk has space"
        )


def _ffmpeg(
    arguments: Sequence[str], stdin: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    command = [*_ffmpeg_command(), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=False)


def _ffmpeg_command() -> list[str]:
    # here, because reports without frames need no FFmpeg
    from imageio_ffmpeg import get_ffmpeg_exe

    try:
        return [get_ffmpeg_exe(), "-nostdin"]
    except RuntimeError as error:
        raise StoreError(
            "no FFmpeg was found; run: pip install --force-reinstall imageio-ffmpeg"
        ) from error
