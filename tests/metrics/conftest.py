"""A small moving clip, and what may happen to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
FRAMES, HEIGHT, WIDTH = 9, 96, 128


@pytest.fixture(scope="session")
def clip() -> Frames:
    """(9, 96, 128, 3) uint8: texture of two scales that moves by (1, 2) px a frame."""
    rng = np.random.default_rng(7)
    canvas = np.zeros((160, 220, 3), dtype=np.float32)
    for scale, share in ((12.0, 0.75), (2.0, 0.25)):
        layer = cv2.GaussianBlur(rng.standard_normal(canvas.shape, dtype=np.float32), (0, 0), scale)
        canvas += share * layer / layer.std()
    canvas = np.clip(140.0 + 40.0 * canvas, 0.0, 255.0)
    views = [canvas[t : t + HEIGHT, 2 * t : 2 * t + WIDTH] for t in range(FRAMES)]
    return np.rint(np.stack(views)).astype(np.uint8)


@pytest.fixture(scope="session")
def with_noise(clip: Frames) -> Callable[[float], Frames]:
    """The clip plus rounded Gaussian noise of a given deviation in grey levels; one pattern."""
    pattern = np.random.default_rng(11).standard_normal(clip.shape)

    def add(deviation_grey: float) -> Frames:
        noisy = clip + deviation_grey * pattern
        return np.rint(np.clip(noisy, 0.0, 255.0)).astype(np.uint8)

    return add


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """For tiny frames on shared cores: waiting for a second thread takes longer than the work."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
