"""Metrics over two videos that should show the same.

    frames (T, H, W, 3) x 2 -> pair_frames -> FramePair -> one metric each -> Score | Unscored

Pairwise metrics are rows of `registry`; `score_pair` runs the configured ones. `readings` looks at
one video alone, `frame_timing` at duplicated and late frames, `latents` at traces. A new metric is
one module, one YAML in conf/metrics, one row in `registry`, and one oracle test.
"""

from harness.metrics.base import Metric, MetricSpec, Region, Score, Traits, Unscored, WorstFrame
from harness.metrics.registry import MetricConfigError, build_options, load_metric, metric_names
from harness.metrics.scoring import score_pair
from harness.metrics.serialise import record_from_jsonable, result_from_jsonable, to_jsonable

__all__ = [
    "Metric",
    "MetricConfigError",
    "MetricSpec",
    "Region",
    "Score",
    "Traits",
    "Unscored",
    "WorstFrame",
    "build_options",
    "load_metric",
    "metric_names",
    "record_from_jsonable",
    "result_from_jsonable",
    "score_pair",
    "to_jsonable",
]
