"""Score one candidate video against its reference, with every configured metric."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.metrics.base import Metric, Score, Unscored
from harness.metrics.registry import MetricConfigError, build_options, load_metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.metrics.frames import FramePair
    from harness.metrics.options import Options

log = logging.getLogger(__name__)


def score_pair(
    reference_frames: NDArray[Any],
    candidate_frames: NDArray[Any],
    metrics: Mapping[str, Mapping[str, object]],
) -> dict[str, Score | Unscored]:
    """One result per configured metric, in the order of `metrics` (name -> options).

    reference_frames, candidate_frames: (T, H, W, 3), both uint8 or both float32 in [0, 1].
    Videos that cannot be compared, and a metric that fails, give `Unscored` with the reason.
    Raises: MetricConfigError, before anything is computed, on an unknown metric or option and when
        no metric is configured: nothing compared is an error.

    >>> import numpy as np
    >>> clip = np.zeros((2, 16, 16, 3), dtype=np.uint8)
    >>> score_pair(clip, clip, {"psnr": {}})["psnr"].value
    inf
    """
    from harness.metrics.frames import FramesUnusableError, pair_frames

    if not metrics:
        raise MetricConfigError(
            "no metric is configured, so nothing would be compared; "
            "choose some from conf/metrics, for example metrics=default"
        )
    jobs = {name: (load_metric(name), build_options(name, metrics[name])) for name in metrics}
    try:
        pair = pair_frames(reference_frames, candidate_frames)
    except FramesUnusableError as error:
        return {
            name: metric.traits.unscored(error.reason, error.remedy)
            for name, (metric, _) in jobs.items()
        }
    return {name: _score_one(metric, pair, options) for name, (metric, options) in jobs.items()}


def _score_one(metric: Metric[Any], pair: FramePair, options: Options) -> Score | Unscored:
    traits = metric.traits
    if pair.frame_count < traits.minimum_frames:
        return traits.unscored(
            f"{traits.name} needs {traits.minimum_frames} frames, the video has {pair.frame_count}",
            f"render at least {traits.minimum_frames} frames, or drop {traits.name} for this case",
        )
    try:
        result = metric.score(pair, options)
    except Exception as error:
        # one broken metric must not cost the others, nor look like a good score
        log.exception("metric %s failed on a pair of %s", traits.name, pair.reference.shape)
        return traits.unscored(
            f"{type(error).__name__}: {error}",
            "this is a defect of the metric or its library; the log has the traceback",
        )
    if isinstance(result, Score) and math.isnan(result.value):
        return traits.unscored(
            "the pooled value is NaN although both videos are finite",
            "this is a defect of the metric; keep the two videos and report it",
        )
    return result
