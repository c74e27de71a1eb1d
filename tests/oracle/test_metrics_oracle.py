"""Every metric against another library, or against its formula written out the slow way.

Each oracle takes uint8 videos (T, H, W, 3) and gives one value per frame (or transition).
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from lpips_package import by_lpips_package, lpips_distances
from scipy import ndimage, signal

from harness.metrics import Score, metric_names, score_pair
from harness.metrics.frames import grey_levels
from harness.metrics.imaging import dense_flow, luma
from harness.metrics.readings import colourfulness, noise_level, sharpness


@pytest.fixture(scope="module")
def pair():
    """Two videos (4, 67, 90, 3): smooth and busy parts, flat black and white, odd sizes."""
    rng = np.random.default_rng(3)
    canvas = cv2.GaussianBlur(rng.standard_normal((80, 110, 3), dtype=np.float32), (0, 0), 2.5)
    canvas = 128.0 + 55.0 * canvas / canvas.std()
    canvas[20:40, 20:50] = 0.0
    canvas[50:70, 60:100] = 255.0
    views = np.stack([canvas[t : t + 67, 2 * t : 2 * t + 90] for t in range(4)])
    noisy = views * 1.02 + rng.normal(0.0, 6.0, views.shape) + 4.0 * rng.normal(size=(4, 1, 1, 1))
    return tuple(np.rint(np.clip(video, 0, 255)).astype(np.uint8) for video in (views, noisy))


def by_skimage_psnr(reference, candidate):
    from skimage.metrics import peak_signal_noise_ratio

    frames = zip(reference, candidate, strict=True)
    return [peak_signal_noise_ratio(r, c, data_range=255) for r, c in frames]


def by_skimage_ssim(reference, candidate):
    return score_pair(reference, candidate, {"ssim_skimage": {}})["ssim_skimage"].per_frame


def by_formula_ssim(reference, candidate):
    def blurred(values):
        return ndimage.gaussian_filter(values, (1.5, 1.5, 0), radius=(5, 5, 0))

    found = []
    for x, y in zip(reference.astype(np.float64), candidate.astype(np.float64), strict=True):
        mx, my = blurred(x), blurred(y)
        vx, vy = blurred(x * x) - mx * mx, blurred(y * y) - my * my
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        luminance = (2 * mx * my + c1) / (mx * mx + my * my + c1)
        structure = (2 * (blurred(x * y) - mx * my) + c2) / (vx + vy + c2)
        found.append((luminance * structure)[5:-5, 5:-5].mean())
    return found


def by_untrained_lpips_package(reference, candidate):
    from harness.metrics import lpips_model

    return lpips_distances(lpips_model.untrained_model(0), reference, candidate)


def by_loops(reference, candidate):
    r, c = reference.astype(int), candidate.astype(int)
    return [
        np.mean(np.abs((c[t + 1] - c[t]) - (r[t + 1] - r[t]))) for t in range(len(reference) - 1)
    ]


def by_convolution(reference, candidate):
    def amplitude(video):
        bt601 = np.array([0.299, 0.587, 0.114])
        means = [(frame @ bt601).mean() for frame in video.astype(np.float64)]
        return np.abs(np.convolve(means, [1.0, -2.0, 1.0], mode="valid"))

    return np.abs(amplitude(candidate) - amplitude(reference)).tolist()


def by_scipy_warp(reference, candidate):
    def residual(video, t, flow):
        height, width = video.shape[1:3]
        rows, columns = np.mgrid[:height, :width].astype(np.float64)
        y, x = rows + flow[..., 1], columns + flow[..., 0]
        inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        warped = [
            ndimage.map_coordinates(video[t, ..., k].astype(float), [y, x], order=1, mode="nearest")
            for k in range(3)
        ]
        return np.mean(np.abs(video[t + 1] - np.stack(warped, axis=-1)) * inside[..., None])

    found = []
    for t in range(len(reference) - 1):
        method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        greys = [
            np.rint(frame.astype(np.float64) @ [0.299, 0.587, 0.114]).astype(np.uint8)
            for frame in (reference[t + 1], reference[t])
        ]
        flow = method.calc(*greys, None)
        found.append(abs(residual(candidate, t, flow) - residual(reference, t, flow)))
    return found


ORACLES = {
    "lpips": (by_lpips_package, 1e-6),
    "psnr": (by_skimage_psnr, 1e-5),
    "ssim": (by_skimage_ssim, 1e-5),
    "ssim_skimage": (by_formula_ssim, 1e-12),
    "lpips_alex_untrained": (by_untrained_lpips_package, 1e-6),
    "temporal_difference": (by_loops, 1e-5),
    "flicker": (by_convolution, 1e-3),
    "warp_error": (by_scipy_warp, 0.02),
}
"""Name -> oracle and absolute tolerance in the metric's unit. Warping differs most: OpenCV
interpolates with coordinates rounded to 1/32 px."""


def test_every_metric_has_an_oracle():
    assert set(metric_names()) == set(ORACLES)


@pytest.mark.parametrize("name", ORACLES)
def test_the_metric_equals_its_oracle_frame_by_frame(name, pair):
    oracle, tolerance = ORACLES[name]
    result = score_pair(*pair, {name: {}})[name]
    assert isinstance(result, Score), result
    np.testing.assert_allclose(result.per_frame, oracle(*pair), rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["ssim", "psnr"])
@pytest.mark.parametrize("deviation", [0.0, 0.3, 30.0])
def test_the_metric_equals_skimage_at_every_size_of_error(name, deviation, pair):
    reference = pair[0]
    noise = np.random.default_rng(5).normal(0.0, deviation, reference.shape)
    candidate = np.rint(np.clip(reference + noise, 0, 255)).astype(np.uint8)
    oracle, tolerance = ORACLES[name]
    with np.errstate(divide="ignore"):
        expected = oracle(reference, candidate)
    result = score_pair(reference, candidate, {name: {}})[name]
    np.testing.assert_allclose(result.per_frame, expected, rtol=0, atol=tolerance)


def test_pooled_psnr_is_skimages_over_the_whole_video(pair):
    from skimage.metrics import peak_signal_noise_ratio

    expected = peak_signal_noise_ratio(*pair, data_range=255)
    assert score_pair(*pair, {"psnr": {}})["psnr"].value == pytest.approx(expected, abs=1e-5)


def test_the_flow_is_that_of_farneback():
    rng = np.random.default_rng(0)
    canvas = cv2.GaussianBlur(rng.standard_normal((140, 180), dtype=np.float32), (0, 0), 3.0)
    canvas = np.clip(128 + 40 * canvas / canvas.std(), 0, 255).astype(np.float32)
    before, after = canvas[:120, :160], canvas[2:122, 3:163]
    flow = dense_flow(before, after)[16:-16, 16:-16]
    farneback = cv2.calcOpticalFlowFarneback(
        before.astype(np.uint8), after.astype(np.uint8), None, 0.5, 3, 15, 3, 5, 1.2, 0
    )[16:-16, 16:-16]
    np.testing.assert_allclose(np.median(flow, axis=(0, 1)), [-3.0, -2.0], atol=0.1)
    assert np.median(np.abs(flow - farneback)) < 0.2


def test_the_flow_does_not_depend_on_the_number_of_threads(pair):
    planes = [luma(grey_levels(frame)) for frame in pair[0][:2]]
    threads = cv2.getNumThreads()
    try:
        flows = []
        for count in (1, 2, 5):
            cv2.setNumThreads(count)
            flows.append(dense_flow(*planes))
    finally:
        cv2.setNumThreads(threads)
    assert all(np.array_equal(flows[0], flow) for flow in flows)


def test_the_noise_level_is_immerkaers_formula(pair):
    plane = luma(grey_levels(pair[1][0])).astype(np.float64)
    kernel = [[1, -2, 1], [-2, 4, -2], [1, -2, 1]]
    height, width = plane.shape
    total = np.abs(signal.convolve2d(plane, kernel, mode="valid")).sum()
    expected = math.sqrt(math.pi / 2) * total / (6 * (width - 2) * (height - 2))
    assert noise_level(plane.astype(np.float32)) == pytest.approx(expected, rel=1e-5)


def test_sharpness_is_scipys_laplacian(pair):
    plane = luma(grey_levels(pair[0][0]))
    expected = ndimage.laplace(plane.astype(np.float64), mode="mirror").var()
    assert sharpness(plane) == pytest.approx(expected, rel=1e-5)


def test_colourfulness_is_the_formula(pair):
    frame = pair[0][0].astype(np.float64)
    rg = frame[..., 0] - frame[..., 1]
    yb = (frame[..., 0] + frame[..., 1]) / 2 - frame[..., 2]
    expected = math.sqrt(rg.var() + yb.var()) + 0.3 * math.sqrt(rg.mean() ** 2 + yb.mean() ** 2)
    assert colourfulness(grey_levels(pair[0][0])) == pytest.approx(expected, rel=1e-5)
