"""What was done to a video after decoding, told on made-up videos."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.judge.frames_fault import frames_fault

Video = NDArray[np.float64]


def _video(seed: int = 0) -> Video:
    """Colours that move over a textured ground: (9, 32, 40, 3)."""
    drawn = np.random.default_rng(seed)
    ground = drawn.uniform(40, 200, (16, 20, 3)).repeat(2, axis=0).repeat(2, axis=1)
    video = np.stack([np.roll(ground, t, axis=1) for t in range(9)])
    for t in range(9):
        video[t, 8:16, 3 * t : 3 * t + 8] = (220, 30, 60)
    return video


def _rounded(video: Video) -> NDArray[np.uint8]:
    return np.round(video).clip(0, 255).astype(np.uint8)


def _blur(video: Video) -> Video:
    padded = np.pad(video, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    return np.mean([padded[:, r : r + 32, c : c + 40] for r in range(3) for c in range(3)], axis=0)


def _chroma(video: Video) -> Video:
    luma = video @ np.array([0.299, 0.587, 0.114])
    colour = video - luma[..., None]
    small = colour.reshape(9, 16, 2, 20, 2, 3).mean(axis=(2, 4))
    return luma[..., None] + np.roll(small, 1, axis=2).repeat(2, axis=1).repeat(2, axis=2)


def _order(*order: int) -> Callable[[Video], Video]:
    return lambda video: video[list(order)]


def _brighter_frame(video: Video) -> Video:
    video = video.copy()
    video[5] += 6
    return video


def _patch(video: Video) -> Video:
    video = video.copy()
    video[4, 10:14, 20:26, 1] = 255 - video[4, 10:14, 20:26, 1]
    return video


FAULTS: list[tuple[str, str, Callable[[Video], Video]]] = [
    ("gain", "1.015 times", lambda video: video * 1.015),
    ("gain", "red is 1.1", lambda video: video * np.array([1.1, 1.0, 1.0])),
    ("offset", "+4", lambda video: video + 4),
    ("flicker", "-3 to +3", lambda video: video + np.array([3, -3] * 4 + [3])[:, None, None, None]),
    ("brightness of frame 5", "+6", _brighter_frame),
    ("swap", "frames 2 and 3", _order(0, 1, 3, 2, 4, 5, 6, 7, 8)),
    ("order", "backwards", lambda video: video[::-1]),
    ("duplicated frame", "frame 4 is frame 3", _order(0, 1, 2, 3, 3, 5, 6, 7, 8)),
    ("late frames", "from frame 1 on", _order(0, 0, 1, 2, 3, 4, 5, 6, 7)),
    ("channel order", "blue, green, red", lambda video: video[..., ::-1]),
    ("mirror", "left and right", lambda video: video[:, :, ::-1]),
    ("shift", "1 pixels down and -2 right", lambda video: np.roll(video, (1, -2), axis=(1, 2))),
    ("blur", "3x3", _blur),
    ("codec", "colour", _chroma),
    ("other values", "frame 4, green, rows 10 to 13, columns 20 to 25", _patch),
    ("frames missing", "8 frames where 9 were decoded: frame 8 missing", lambda video: video[:-1]),
    ("frames missing", "frame 0 missing", lambda video: video[1:]),
    ("crop", "row 2, column 4", lambda video: video[:, 2:30, 4:36]),
    ("size", "36x40 pixels", lambda video: np.pad(video, ((0, 0), (2, 2), (0, 0), (0, 0)))),
    ("frames added", "10 frames", lambda video: np.concatenate([video, video[-1:]])),
]


@pytest.mark.parametrize(("kind", "told", "change"), FAULTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_kind_and_its_place_are_told(
    seed: int, kind: str, told: str, change: Callable[[Any], Any]
) -> None:
    right = _video(seed)
    found = frames_fault(_rounded(right), _rounded(change(right)))
    assert found.kind == kind
    assert told in found.told


def test_a_shift_by_an_eighth_of_the_picture_is_told() -> None:
    right = _rounded(_video().repeat(2, axis=1).repeat(2, axis=2))
    shifted = np.pad(right, ((0, 0), (8, 0), (0, 7), (0, 0)), mode="edge")[:, :64, 7:]
    found = frames_fault(right, shifted)
    assert (found.kind, found.told) == ("shift", "8 pixels down and -7 right")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, 255.0, np.nan])
def test_a_video_of_one_value_is_no_shift(value: float) -> None:
    right = _video()
    assert frames_fault(right, np.full_like(right, value)).kind != "shift"
    assert frames_fault(np.full_like(right, value), right).kind != "shift"


def test_equal_videos_have_none() -> None:
    video = _rounded(_video())
    assert frames_fault(video, video).kind == "none"
