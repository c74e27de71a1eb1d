"""Readings of one video: known values for made-up frames, and what counts as broken."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from harness.metrics.frame_timing import FrameTiming, frame_timing
from harness.metrics.frames import FramesUnusableError
from harness.metrics.latents import latent_distance
from harness.metrics.readings import hard_failures, read_video

QUANTITIES = ("luminance", "contrast", "sharpness", "colourfulness", "noise_level", "motion_energy")


def test_a_video_has_no_hard_failure(clip):
    assert hard_failures(read_video(clip)) == ()


def test_bytes_and_floats_agree(clip):
    bytes_read = read_video(clip)
    floats_read = read_video(clip.astype(np.float32) / np.float32(255.0))
    for name in QUANTITIES:
        expected = getattr(bytes_read, name).value
        assert getattr(floats_read, name).value == pytest.approx(expected, rel=1e-4)


def test_each_reading_follows_what_a_person_sees(clip):
    plain = read_video(clip)
    blurred = read_video(np.stack([cv2.GaussianBlur(frame, (0, 0), 2.0) for frame in clip]))
    noise = np.random.default_rng(0).normal(0.0, 8.0, clip.shape)
    noisy = read_video(np.clip(clip + noise, 0, 255).astype(np.uint8))
    darker = read_video((clip * 0.7).astype(np.uint8))
    grey = read_video(np.repeat(clip.mean(axis=3, keepdims=True), 3, axis=3).astype(np.uint8))
    slower = read_video(clip[[0, 0, 1, 1, 2, 2, 3, 3, 4]])

    assert blurred.sharpness.value < 0.5 * plain.sharpness.value
    assert darker.luminance.value == pytest.approx(0.7 * plain.luminance.value, rel=0.02)
    assert darker.contrast.value == pytest.approx(0.7 * plain.contrast.value, rel=0.02)
    assert grey.colourfulness.value == pytest.approx(0.0, abs=1e-3)
    assert noisy.noise_level.value > plain.noise_level.value + 2.0
    assert slower.motion_energy.value < 0.6 * plain.motion_energy.value
    assert slower.still_frames == (1, 3, 5, 7)


def test_the_noise_level_is_the_deviation_of_the_noise():
    noise = np.random.default_rng(0).normal(128.0, 5.0, (1, 256, 256, 1))
    video = np.repeat(np.rint(noise), 3, axis=3).astype(np.uint8)
    assert read_video(video).noise_level.value == pytest.approx(5.0, rel=0.02)


@pytest.mark.parametrize("frames", [2, 9])
def test_black_constant_and_frozen_are_told_apart(clip, frames):
    black = np.zeros((frames, 16, 16, 3), dtype=np.uint8)
    red = black.copy()
    red[..., 0] = np.arange(frames)[:, None, None] + 100
    frozen = np.repeat(clip[:1], frames, axis=0)
    assert hard_failures(read_video(black)) == (
        f"all {frames} frames are black",
        f"all {frames} frames are of one colour",
        f"nothing moves in {frames} frames",
    )
    assert hard_failures(read_video(red)) == (f"all {frames} frames are of one colour",)
    assert hard_failures(read_video(frozen)) == (f"nothing moves in {frames} frames",)


def test_nearly_frozen_is_frozen(clip):
    floats = np.repeat(clip[:1], 3, axis=0).astype(np.float32) / 255.0
    jitter = np.random.default_rng(0).uniform(-1e-4, 1e-4, floats.shape).astype(np.float32)
    readings = read_video(np.clip(floats + jitter, 0, 1))
    assert hard_failures(readings) == ("nothing moves in 3 frames",)


def test_a_single_frame_is_not_frozen(clip):
    readings = read_video(clip[:1])
    assert hard_failures(readings) == ()
    assert math.isnan(readings.motion_energy.value)
    assert readings.motion_energy.per_frame == ()


def test_a_frame_of_nan_is_counted_and_stays_visible(clip):
    floats = clip.astype(np.float32) / 255.0
    floats[2] = math.nan
    floats[3, 0, 0, 0] = 1.5
    readings = read_video(floats)
    assert hard_failures(readings) == (
        f"{floats[2].size} values are not finite",
        "1 values are not in [0, 1]",
    )
    for name in QUANTITIES:
        reading = getattr(readings, name)
        assert math.isnan(reading.value)
        assert math.isnan(reading.per_frame[2])
        assert math.isfinite(reading.per_frame[5])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_broken_video_is_neither_constant_nor_frozen(value):
    readings = read_video(np.full((3, 8, 8, 3), value, dtype=np.float32))
    assert readings.constant_frames == readings.still_frames == ()
    assert f"{3 * 8 * 8 * 3} values are not finite" in hard_failures(readings)


def test_another_layout_is_refused(clip):
    with pytest.raises(FramesUnusableError, match="the video has shape"):
        read_video(clip[0])


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (list(range(9)), FrameTiming((), (0,) * 9)),
        ([0, 1, 2, 3, 3, 5, 6, 7, 8], FrameTiming((4,), (0, 0, 0, 0, 1, 0, 0, 0, 0))),
        ([0, 0, 1, 2, 3, 4, 5, 6, 7], FrameTiming((1,), (0, 1, 1, 1, 1, 1, 1, 1, 1))),
        ([0, 1, 2, 4, 5, 6, 7, 8, 8], FrameTiming((8,), (0, 0, 0, -1, -1, -1, -1, -1, 0))),
    ],
)
def test_duplicates_and_lags(clip, order, expected):
    assert frame_timing(clip, clip[order]) == expected


def test_a_still_reference_has_no_duplicates(clip):
    still = np.repeat(clip[:1], 5, axis=0)
    assert frame_timing(still, still) == FrameTiming((), (0,) * 5)


def test_a_single_frame_has_no_timing(clip):
    assert frame_timing(clip[:1], clip[:1]) == FrameTiming((), (0,))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([3.0, 4.0], [3.0, 4.0], 0.0),
        ([3.0, 4.0], [6.0, 8.0], 1.0),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 0.0], [0.0, 1.0], math.inf),
        ([1.0, math.nan], [1.0, 1.0], math.nan),
        ([1.0, 1.0], [1.0, math.inf], math.nan),
    ],
)
def test_latent_distance(a, b, expected):
    found = latent_distance(np.array(a, dtype=np.float32), np.array(b, dtype=np.float32))
    assert found == pytest.approx(expected, nan_ok=True)


def test_latent_distance_does_not_broadcast():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3,\)"):
        latent_distance(np.zeros((2, 3)), np.zeros(3))
    with pytest.raises(ValueError, match="no empty axis"):
        latent_distance(np.zeros(0), np.zeros(0))


def test_latent_distance_keeps_what_float32_would_lose():
    a = np.full(1_000_000, 1.0, dtype=np.float32)
    b = a.copy()
    b[0] += np.float32(1e-3)
    assert latent_distance(a, b) == pytest.approx(1e-6, rel=1e-3)
