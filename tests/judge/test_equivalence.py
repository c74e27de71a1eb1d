"""What the seeds prove of a video's look, and that nothing is proven from too little."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from harness.judge.equivalence import equivalence
from harness.metrics import readings
from harness.metrics.readings import VideoReadings


def _video(seed: int, gain: float = 1.0) -> VideoReadings:
    rng = np.random.default_rng(seed)
    frames: NDArray[np.float32] = rng.uniform(0.2, 0.6, (3, 16, 16, 3)).astype(np.float32)
    return readings.read_video(np.rint(frames * gain * 255).astype(np.uint8))


def _judged(seeds: int, gain: float):
    return equivalence(
        [_video(seed) for seed in range(seeds)], [_video(seed, gain) for seed in range(seeds)]
    )


def test_enough_alike_seeds_prove_a_margin_below_what_is_noticed() -> None:
    found = _judged(12, 1.002)
    assert found.outcome == "agrees"
    assert found.value is not None and 0 < found.value < 0.05


def test_few_seeds_prove_nothing_and_say_how_many_would() -> None:
    found = _judged(3, 1.0)
    assert (found.outcome, found.value) == ("noted", math.inf)
    assert "8 are needed" in found.detail


def test_a_noticeable_shift_is_never_proven_away() -> None:
    found = _judged(12, 0.9)
    assert found.outcome == "noted"
    assert found.value is not None and found.value > 0.1


def test_a_reading_that_is_no_number_proves_nothing() -> None:
    videos = [_video(seed) for seed in range(12)]
    broken = replace(videos[0].luminance, value=math.nan)
    spoilt = [replace(videos[0], luminance=broken), *videos[1:]]
    found = equivalence(videos, spoilt)
    assert (found.outcome, found.value) == ("noted", math.inf)
