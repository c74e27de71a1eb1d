"""OpenCV behind typed functions: the only module here that imports cv2.

OpenCV's stubs return arrays of "any integer or floating" type; these wrappers say which it is.
"""

from __future__ import annotations

from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from harness.metrics.frames import DATA_RANGE, Grey


def luma(frame: Grey) -> Grey:
    """BT.601 luma 0.299 R + 0.587 G + 0.114 B: (H, W, 3) -> (H, W), in grey levels."""
    return cast("Grey", cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))


def gaussian_blur(image: Grey, radius_px: int, sigma_px: float, sign: int = 1) -> Grey:
    """Separable Gaussian of 2 radius + 1 taps, borders mirrored as scipy's mode `reflect` does.

    sign: -1 for the blurred image times -1.
    """
    kernel = cv2.getGaussianKernel(2 * radius_px + 1, sigma_px, cv2.CV_32F)
    blurred = cv2.sepFilter2D(
        image, cv2.CV_32F, kernel, kernel * sign, borderType=cv2.BORDER_REFLECT
    )
    return cast("Grey", blurred)


def add_square(target: Grey, image: Grey) -> None:
    """target += image^2, in place."""
    cv2.accumulateSquare(image, target)


def add_scaled(image: Grey, other: Grey, factor: float) -> Grey:
    """image + factor * other."""
    return cast("Grey", cv2.scaleAdd(other, factor, image))


def absolute_difference(a: Grey, b: Grey) -> Grey:
    """|a - b| per value; any shape."""
    return cast("Grey", cv2.absdiff(a, b))


def mean_and_deviation(plane: Grey) -> tuple[float, float]:
    """Mean and population standard deviation of (H, W), summed in float64; NaN stays NaN."""
    mean, deviation = cv2.meanStdDev(plane)
    return float(mean[0, 0]), float(deviation[0, 0])


def laplacian(plane: Grey) -> Grey:
    """Four-neighbour Laplacian of (H, W), mirrored at the border."""
    return cast(
        "Grey", cv2.Laplacian(plane, cv2.CV_32F, ksize=1, borderType=cv2.BORDER_REFLECT_101)
    )


def convolve3(plane: Grey, kernel: Grey) -> Grey:
    """(H, W) correlated with a 3x3 kernel where the kernel fits: (H - 2, W - 2)."""
    return cast("Grey", cv2.filter2D(plane, cv2.CV_32F, kernel))[1:-1, 1:-1]


def dense_flow(origin: Grey, target: Grey) -> NDArray[np.float32]:
    """Optical flow (H, W, 2) in pixels (dx, dy): origin(y, x) is found at target(y + dy, x + dx).

    origin, target: luma (H, W) in grey levels, at least 16x16.
    Source: dense inverse search, Kroeger et al., ECCV 2016; OpenCV's `fast` preset, which found
        the shift of a smooth 480x720 texture to 0.04 px in a sixth of the time of `medium`.
    """
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    start = cast("Any", None)  # legal at run time, but not in the stubs
    return cast("NDArray[np.float32]", method.calc(_bytes(origin), _bytes(target), start))


def sample(frame: Grey, x: NDArray[np.float32], y: NDArray[np.float32]) -> Grey:
    """Bilinear values of `frame` at (y, x), all in pixels; the border is repeated outwards."""
    sampled = cv2.remap(frame, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cast("Grey", sampled)


def _bytes(plane: Grey) -> NDArray[np.uint8]:
    return np.rint(np.clip(plane, 0.0, DATA_RANGE)).astype(np.uint8)
