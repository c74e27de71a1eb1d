"""What a person would see: shifts of simple readings of the video, in words."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from harness.metrics.readings import VideoReadings

NOTICEABLE = 0.05
"""A relative shift below this is not worth a word."""

_WORDS = (
    ("luminance", "brighter", "darker"),
    ("contrast", "more contrast", "less contrast"),
    ("sharpness", "sharper", "blurrier"),
    ("colourfulness", "more colourful", "less colourful"),
    ("noise_level", "noisier", "smoother"),
    ("motion_energy", "more motion", "less motion"),
)

READINGS = tuple(name for name, _, _ in _WORDS)
"""The readings that a person would notice a shift of."""


def quality_shift(
    reference: Sequence[VideoReadings], candidate: Sequence[VideoReadings]
) -> list[str]:
    """Each reading whose mean over seeds shifts noticeably, as in "darker by 12 %".

    Empty where a video is not finite or the reference's reading is zero.
    """
    found: list[str] = []
    for name, up, down in _WORDS:
        a = mean(getattr(video, name).value for video in reference)
        b = mean(getattr(video, name).value for video in candidate)
        if not a > 0 or b != b:
            continue
        shift = b / a - 1
        if abs(shift) >= NOTICEABLE:
            found.append(f"{up if shift > 0 else down} by {abs(shift):.0%}")
    return found
