"""The usual gates beside the verdict: each sees what it is there for, or has no opinion."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from harness.metrics.lpips_weights import backbone_in_use
from tests.selftest.gates import GATES, usual_gates


@pytest.fixture(scope="module")
def video() -> np.ndarray:
    """(5, 64, 64, 3): a textured square that moves."""
    frames = np.full((5, 64, 64, 3), 210, np.uint8)
    patch = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    for t, frame in enumerate(frames):
        frame[20:44, 8 + 6 * t : 32 + 6 * t] = patch
    return frames


def opinions(reference: np.ndarray, candidate: np.ndarray) -> dict[str, bool]:
    latents = np.zeros((1, 2), np.float32)
    return usual_gates(reference, candidate, latents + 1, latents + 1, latents + 1, fps=8)


def test_every_gate_passes_equal_videos_in_the_order_in_which_they_are_shown(video):
    assert opinions(video, video.copy()) == dict.fromkeys(GATES, False)


def test_lpips_sees_blur_and_passes_another_brightness(video):
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.5) for frame in video])
    brighter = np.clip(video.astype(int) + 16, 0, 255).astype(np.uint8)
    assert opinions(video, blurred)["LPIPS .1"]
    assert not opinions(video, brighter)["LPIPS .1"]
    assert opinions(video, brighter)["PSNR 30"]


def test_without_weights_lpips_has_no_opinion(video, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backbone_in_use.cache_clear()
    assert set(GATES) - set(opinions(video, video)) == {"LPIPS .1"}
    backbone_in_use.cache_clear()
