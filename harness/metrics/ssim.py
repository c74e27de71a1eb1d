"""Structural similarity: whether local patterns survive, in the definition of Wang et al."""

from __future__ import annotations

import numpy as np

from harness.metrics.base import Metric, Score, Traits, Unscored, find_worst_frame
from harness.metrics.frames import DATA_RANGE, FramePair, Grey
from harness.metrics.imaging import gaussian_blur
from harness.metrics.options import TileOptions
from harness.metrics.tiles import TileGrid

TRAITS = Traits(
    name="ssim", version=1, unit="1", higher_is_better=True, perfect=1.0, symmetric=True
)

SIGMA_PX = 1.5
RADIUS_PX = 5
WINDOW_PX = 2 * RADIUS_PX + 1
C1 = np.float32((0.01 * DATA_RANGE) ** 2)
C2 = np.float32((0.03 * DATA_RANGE) ** 2)
MID_GREY = np.float32(DATA_RANGE / 2)


def ssim_map(reference: Grey, candidate: Grey) -> Grey:
    """SSIM at every pixel and channel: (H, W, 3) grey levels twice -> (H, W, 3) in [-1, 1].

    S = (2 mx my + C1)(2 cov + C2) / ((mx^2 + my^2 + C1)(vx + vy + C2)), where means, variances and
    the covariance (of the population) are weighted by an 11-tap Gaussian of 1.5 px.
    Source: Wang et al., IEEE TIP 13 (2004); equals `skimage.metrics.structural_similarity` with
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False to 1e-5 of the score.
    """
    # Only vx + vy is needed, so x^2 + y^2 is blurred once. Variances do not see an offset: taken
    # around mid-grey, they lose less to cancellation in float32.
    x = reference - MID_GREY
    y = candidate - MID_GREY
    mean_x = gaussian_blur(x, RADIUS_PX, SIGMA_PX)
    mean_y = gaussian_blur(y, RADIUS_PX, SIGMA_PX)
    products = mean_x * mean_y
    squares = mean_x * mean_x + mean_y * mean_y
    covariance = gaussian_blur(x * y, RADIUS_PX, SIGMA_PX) - products
    variances = gaussian_blur(np.square(x) + np.square(y), RADIUS_PX, SIGMA_PX) - squares
    mean_x += MID_GREY
    mean_y += MID_GREY
    numerator = (2 * (mean_x * mean_y) + C1) * (2 * covariance + C2)
    denominator = (mean_x * mean_x + mean_y * mean_y + C1) * (variances + C2)
    return np.divide(numerator, denominator)


def mean_ssim(similarity: Grey) -> float:
    """Mean of an `ssim_map` without the 5 px at the border that the window overhangs."""
    inner = similarity[RADIUS_PX:-RADIUS_PX, RADIUS_PX:-RADIUS_PX]
    return float(inner.mean(dtype=np.float64))


def ssim(pair: FramePair, options: TileOptions) -> Score | Unscored:
    """Mean SSIM over the frames, after computing it at full size and on every channel.

    The worst region is looked for in the whole frame, the border included: a defect may sit there.
    """
    if min(pair.height_px, pair.width_px) < WINDOW_PX:
        return TRAITS.unscored(
            f"frames of {pair.height_px}x{pair.width_px} px are smaller than the window",
            f"render at least {WINDOW_PX}x{WINDOW_PX} px, or drop ssim for this case",
        )
    grid = TileGrid.covering(pair.height_px, pair.width_px, options.tile_px)
    maps = (ssim_map(reference, candidate) for reference, candidate in pair)
    frames = [(mean_ssim(similarity), grid.means(similarity)) for similarity in maps]
    per_frame = tuple(mean for mean, _ in frames)
    return Score(
        spec=TRAITS.spec(options),
        value=float(np.mean(per_frame)),
        per_frame=per_frame,
        worst_frame=find_worst_frame(per_frame, higher_is_better=True),
        worst_region=grid.worst(np.stack([tile for _, tile in frames]), higher_is_better=True),
    )


METRIC = Metric(TRAITS, TileOptions, ssim)
