"""Metrics over two videos that should show the same.

    reference ──┐  frame by frame   ┌─> a meter per metric and candidate ─> Score | Unscored
    candidates ─┴─> one_pass ───────┴─> a reader per video ───────────────> VideoReadings

Pairwise metrics are rows of `registry`; `score_candidates` leads a reference and all its candidates
past the configured ones, and `examine` also reads every video alone (`readings`). A metric splits
into `measure`, which needs pixels, and `add` and `score`, which do not; what depends on the
reference alone is asked for with `Moment.once`. `frame_timing` looks at duplicated and late frames,
`latents` at traces. A new metric is one module, one YAML in conf/metrics, one row in `registry`,
and one oracle test.
"""

from harness.metrics.base import Metric, MetricSpec, Region, Score, Traits, Unscored, WorstFrame
from harness.metrics.registry import MetricConfigError, build_options, load_metric, metric_names
from harness.metrics.scoring import Examination, examine, score_candidates, score_pair
from harness.metrics.serialise import record_from_jsonable, result_from_jsonable, to_jsonable

__all__ = [
    "Examination",
    "Metric",
    "MetricConfigError",
    "MetricSpec",
    "Region",
    "Score",
    "Traits",
    "Unscored",
    "WorstFrame",
    "build_options",
    "examine",
    "load_metric",
    "metric_names",
    "record_from_jsonable",
    "result_from_jsonable",
    "score_candidates",
    "score_pair",
    "to_jsonable",
]
