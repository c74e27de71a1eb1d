"""Four defects that pass every published gate each move a worst value or a temporal metric."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.metrics import score_pair
from harness.metrics.frame_timing import frame_timing

METRICS = ("psnr", "ssim", "temporal_difference", "flicker", "warp_error")


def gain(clip):
    return np.clip(np.rint(clip * 1.03), 0, 255).astype(np.uint8)


def duplicated_frame(clip):
    return clip[[0, 1, 2, 3, 3, 5, 6, 7, 8]]


def grey_flicker(clip):
    signs = np.where(np.arange(len(clip)) % 2, 3, -3)[:, None, None, None]
    return np.clip(clip.astype(int) + signs, 0, 255).astype(np.uint8)


def bright_patch(clip):
    # the share of the picture that 80x100 px have in 480x720
    patched = clip.copy()
    patched[4:, 40:56, 60:78] = np.clip(patched[4:, 40:56, 60:78].astype(int) + 25, 0, 255)
    return patched


def readings(reference, candidate) -> dict[str, float]:
    """Every pooled value and worst value, PSNR as the error it stands for: larger is worse."""
    found: dict[str, float] = {}
    for name, result in score_pair(reference, candidate, {name: {} for name in METRICS}).items():
        for what, value in (
            ("pooled", result.value),
            ("frame", result.worst_frame.value),
            ("region", result.worst_region.value),
        ):
            if name == "psnr":
                value = 255.0**2 / 10.0 ** (value / 10.0)
            elif name == "ssim":
                value = 1.0 - value
            found[f"{name} {what}"] = value
    return found


@pytest.mark.parametrize(
    ("defect", "expected"),
    [
        (gain, "psnr region"),
        (duplicated_frame, "psnr frame"),
        (duplicated_frame, "temporal_difference frame"),
        (duplicated_frame, "warp_error frame"),
        (grey_flicker, "flicker pooled"),
        (grey_flicker, "temporal_difference pooled"),
        (bright_patch, "psnr region"),
        (bright_patch, "temporal_difference region"),
    ],
)
def test_the_defect_stands_clear_of_healthy_noise(clip, with_noise, defect, expected):
    healthy = readings(clip, with_noise(1.0))
    defective = readings(clip, defect(with_noise(1.0)))
    assert defective[expected] > 5.0 * healthy[expected]


@pytest.mark.parametrize("defect", [gain, duplicated_frame, grey_flicker, bright_patch])
def test_the_usual_gates_would_accept_the_defect(clip, defect):
    result = score_pair(clip, defect(clip), {"psnr": {}, "ssim": {}})
    frames = [value for value in result["psnr"].per_frame if math.isfinite(value)]
    assert np.mean(frames + [100.0] * (len(clip) - len(frames))) > 30.0
    assert result["ssim"].value > 0.9


def test_the_duplicate_is_named(clip, with_noise):
    timing = frame_timing(clip, duplicated_frame(with_noise(1.0)))
    assert timing.duplicated == (4,)
    assert timing.late == (4,)
