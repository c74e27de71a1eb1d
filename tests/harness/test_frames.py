"""`harness.render.frames`: rounding, identity, storage to the bit, previews."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from harness.errors import StoreError
from harness.render.frames import (
    NOT_FINITE_COLOUR,
    FramesError,
    frames_sha256,
    quantise,
    read_frames,
    write_lossless,
    write_preview,
)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_every_grey_level_survives_float_and_back():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    for dtype in (np.float32, np.float64):
        assert np.array_equal(quantise(levels.astype(dtype) / 255), levels)


def test_quantise_rounds_and_does_not_truncate():
    assert quantise(np.full((1, 2, 2, 3), 0.9999, np.float32)).min() == 255
    assert quantise(np.full((1, 2, 2, 3), 100.4 / 255, np.float32)).max() == 100
    assert quantise(np.full((1, 2, 2, 3), 100.6 / 255, np.float32)).min() == 101


def test_half_precision_frames_are_scaled_in_float32():
    half = (np.arange(256) / 255).astype(np.float16).repeat(3).reshape(1, 16, 16, 3)
    assert np.array_equal(quantise(half), quantise(half.astype(np.float64)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_pixel_that_is_not_finite_is_painted_and_never_black(bad: float):
    frames = np.full((2, 4, 4, 3), 0.5, np.float32)
    frames[1, 2, 3, 0] = bad
    before = frames.copy()
    painted = quantise(frames)
    assert tuple(painted[1, 2, 3]) == NOT_FINITE_COLOUR
    assert (painted == NOT_FINITE_COLOUR).all(axis=-1).sum() == 1
    assert np.array_equal(frames, before, equal_nan=True), "the input was altered"


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.full((1, 4, 4, 3), 1.01, np.float32), "0, 1"),
        (np.full((1, 4, 4, 3), -0.01, np.float32), "0, 1"),
        (np.zeros((1, 3, 4, 4), np.float32), r"\(T, H, W, 3\)"),
        (np.zeros((0, 4, 4, 3), np.float32), "no empty axis"),
        (np.zeros((1, 4, 4, 3), np.uint8), "quantise once"),
    ],
)
def test_quantise_refuses_what_is_not_canonical(frames: np.ndarray, message: str):
    with pytest.raises(FramesError, match=message):
        quantise(frames)


def test_identity_covers_bytes_and_shape():
    frames = noise(2, 4, 6)
    assert frames_sha256(frames) == frames_sha256(frames.copy())
    assert frames_sha256(frames) == frames_sha256(np.asfortranarray(frames))
    assert frames_sha256(frames) != frames_sha256(frames.reshape(2, 6, 4, 3))
    altered = frames.copy()
    altered[1, 3, 5, 2] ^= 1
    assert frames_sha256(frames) != frames_sha256(altered)
    with pytest.raises(FramesError):
        frames_sha256(frames.astype(np.float32))


@pytest.mark.parametrize(
    "shape", [(1, 64, 64), (5, 7, 9), (3, 1, 1), (2, 63, 64), (17, 64, 64), (9, 48, 85)]
)
def test_storage_is_exact(tmp_path: Path, shape: tuple[int, int, int]):
    frames = noise(*shape)
    write_lossless(tmp_path / "frames.mkv", frames, 8)
    assert np.array_equal(read_frames(tmp_path / "frames.mkv"), frames)


def test_storage_is_exact_for_extremes_and_equal_frames(tmp_path: Path):
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    frames[1:3, :, 8:] = 255
    write_lossless(tmp_path / "frames.mkv", frames, 16)
    assert np.array_equal(read_frames(tmp_path / "frames.mkv"), frames)


def test_a_strided_video_is_stored_as_it_looks(tmp_path: Path):
    frames = noise(4, 16, 24)[::2, ::-1, ::3]
    write_lossless(tmp_path / "frames.mkv", frames, 8)
    assert np.array_equal(read_frames(tmp_path / "frames.mkv"), frames)


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 0xFF
    elif how == "truncated":
        del content[len(content) // 2 :]
    elif how == "header":
        del content[20:]
    else:
        content[:] = b"no video at all"
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["flipped", "truncated", "header", "text"])
def test_a_damaged_file_is_an_error_that_says_what_to_do(tmp_path: Path, how: str):
    path = tmp_path / "frames.mkv"
    write_lossless(path, noise(6, 32, 32), 8)
    damage(path, how)
    with pytest.raises(StoreError, match="and render again"):
        read_frames(path)


def test_a_missing_file_and_a_foreign_video_are_errors(tmp_path: Path):
    with pytest.raises(StoreError, match="missing"):
        read_frames(tmp_path / "frames.mkv")
    write_preview(tmp_path / "other.mp4", noise(3, 16, 16), 8)
    with pytest.raises(StoreError, match="not written by this program"):
        read_frames(tmp_path / "other.mp4")


def test_a_folder_that_is_not_there_is_an_error_and_leaves_nothing(tmp_path: Path):
    with pytest.raises(StoreError, match="cannot write"):
        write_lossless(tmp_path / "absent" / "frames.mkv", noise(1, 8, 8), 8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("shape", "height", "width"),
    [
        ((9, 64, 64), 384, 384),
        ((1, 7, 9), 294, 378),
        ((3, 255, 257), 256, 258),
        ((2, 480, 720), 480, 720),
    ],
)
def test_preview_has_even_size_every_frame_and_true_colours(
    tmp_path: Path, shape: tuple[int, int, int], height: int, width: int
):
    frames = np.empty((*shape, 3), np.uint8)
    frames[:] = (200, 60, 40)
    write_preview(tmp_path / "preview.mp4", frames, 8)
    decoded = np.asarray(iio.imread(tmp_path / "preview.mp4"))
    assert decoded.shape == (shape[0], height, width, 3)
    metadata = iio.immeta(tmp_path / "preview.mp4")
    assert metadata["fps"] == 8
    assert np.abs(decoded.mean(axis=(0, 1, 2)) - (200, 60, 40)).max() < 12


def test_the_module_needs_no_torch():
    program = (
        "import sys, harness.render.frames; sys.exit(bool({'torch', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
