"""The entry function: what cannot be scored is counted, with its reason, and costs nothing else."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np
import pytest

from harness.metrics import MetricConfigError, Score, Unscored, registry, score_pair
from harness.metrics.psnr import METRIC as PSNR
from harness.metrics.psnr import PsnrMeter

BOTH = {"psnr": {}, "ssim": {}}


def reasons(reference, candidate) -> list[str]:
    results = score_pair(reference, candidate, BOTH)
    assert list(results) == list(BOTH)
    assert all(isinstance(result, Unscored) and result.remedy for result in results.values())
    return [result.reason for result in results.values()]


def test_no_metric_is_an_error(clip):
    with pytest.raises(MetricConfigError, match="nothing would be compared"):
        score_pair(clip, clip, {})


def test_a_wrong_name_is_an_error_before_anything_is_computed(clip):
    with pytest.raises(MetricConfigError, match="did you mean 'ssim'"):
        score_pair(clip, clip, {"psnr": {}, "sssim": {}})


def test_results_come_in_the_order_asked_for(clip):
    assert list(score_pair(clip, clip, {"ssim": {}, "psnr": {}})) == ["ssim", "psnr"]


@pytest.mark.parametrize(
    "shape", [(96, 128, 3), (9, 3, 96, 128), (9, 96, 128, 4), (0, 96, 128, 3), (9, 0, 128, 3)]
)
def test_another_layout_is_unscored(shape):
    frames = np.zeros(shape, dtype=np.uint8)
    assert all("expected (T, H, W, 3)" in reason for reason in reasons(frames, frames))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64, np.bool_])
def test_another_dtype_is_unscored(clip, dtype):
    frames = clip.astype(dtype)
    assert all("expected uint8" in reason for reason in reasons(frames, frames))


def test_rounding_on_one_side_alone_is_unscored(clip):
    floats = clip.astype(np.float32) / np.float32(255.0)
    assert all("uint8 but the candidate is float32" in r for r in reasons(clip, floats))


@pytest.mark.parametrize("side", ["reference", "candidate"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_unscored_with_their_place(clip, side, value):
    sides = {name: clip.astype(np.float32) / 255.0 for name in ("reference", "candidate")}
    sides[side][5, 10, 10, 0] = value
    expected = f"the {side} holds 1 values that are not finite, first in frame 5"
    assert reasons(**sides) == [expected, expected]


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 255.0)])
def test_another_range_is_unscored_and_never_guessed(clip, low, high):
    floats = (low + clip / 255.0 * (high - low)).astype(np.float32)
    assert all("expected [0, 1]" in reason for reason in reasons(floats, floats))


class Planted(PsnrMeter):
    """A meter that fails at frame 4, or whose score is not a number."""

    def __init__(self, size, options, *, fails):
        super().__init__(size, options)
        self.fails = fails

    def measure(self, reference, candidates):
        if self.fails and reference.index == 4:
            raise ZeroDivisionError("planted")
        return super().measure(reference, candidates)

    def tally(self):
        tally = super().tally()
        score = tally.score
        tally.score = lambda: replace(score(), value=math.nan)
        return tally


@pytest.fixture
def planted(monkeypatch):
    def plant(*, fails):
        metric = replace(PSNR, start=functools.partial(Planted, fails=fails))
        monkeypatch.setattr("harness.metrics.psnr.METRIC", metric)

    return plant


def test_a_metric_that_fails_does_not_cost_the_others(clip, planted):
    planted(fails=True)
    results = score_pair(clip, clip, BOTH)
    assert results["psnr"] == Unscored("psnr", "ZeroDivisionError: planted", results["psnr"].remedy)
    assert isinstance(results["ssim"], Score)


def test_a_metric_that_gives_nan_is_unscored(clip, planted):
    planted(fails=False)
    assert "NaN" in score_pair(clip, clip, {"psnr": {}})["psnr"].reason


def test_a_metric_from_elsewhere_needs_one_row(clip, monkeypatch):
    monkeypatch.setitem(registry.ROWS, "mine", "harness.metrics.psnr:METRIC")
    assert score_pair(clip, clip, {"mine": {}})["mine"].value == math.inf


def test_one_equal_frame_does_not_lift_the_pooled_psnr(clip, with_noise):
    candidate = with_noise(4.0)
    candidate[3] = clip[3]
    result = score_pair(clip, candidate, {"psnr": {}})["psnr"]
    assert result.per_frame[3] == math.inf
    assert result.extra["mse_grey2"][3] == 0.0
    assert result.value == pytest.approx(
        10 * math.log10(255**2 / np.mean(result.extra["mse_grey2"]))
    )
