"""Score candidate videos against their reference, with every configured metric, in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.metrics.base import Score, Unscored
from harness.metrics.registry import MetricConfigError, build_options, load_metric

if TYPE_CHECKING:
    from harness.metrics.frames import Video
    from harness.metrics.readings import VideoReadings

Results = dict[str, Score | Unscored]
"""One result per configured metric, in the order in which they were asked for."""


@dataclass(frozen=True)
class Examination:
    """All that one pass over a reference and its candidates, by name, has found."""

    scores: dict[str, Results]
    reference: VideoReadings
    candidates: dict[str, VideoReadings]


def score_pair(
    reference: Video, candidate: Video, metrics: Mapping[str, Mapping[str, object]]
) -> Results:
    """`score_candidates` for one candidate.

    >>> import numpy as np
    >>> clip = np.zeros((2, 16, 16, 3), dtype=np.uint8)
    >>> score_pair(clip, clip, {"psnr": {}})["psnr"].value
    inf
    """
    return score_candidates(reference, {"candidate": candidate}, metrics)["candidate"]


def score_candidates(
    reference: Video,
    candidates: Mapping[str, Video],
    metrics: Mapping[str, Mapping[str, object]],
) -> dict[str, Results]:
    """Results for every candidate by its name; `metrics` is name -> options.

    Videos: (T, H, W, 3), all uint8 or all float32 in [0, 1]; arrays, or stored videos, which are
    decoded while they pass. What depends on the reference alone is computed once.
    Videos that cannot be compared, and a metric that fails, give `Unscored` with the reason.
    Raises: MetricConfigError, before anything is computed, on an unknown metric or option and when
        no metric is configured: nothing compared is an error. What reading a video raises.
    """
    return _look(reference, candidates, metrics, read=False)[0]


def examine(
    reference: Video,
    candidates: Mapping[str, Video],
    metrics: Mapping[str, Mapping[str, object]],
) -> Examination:
    """The results of `score_candidates`, and the readings of every video alone, from the same pass.

    Raises: as `score_candidates`; FramesUnusableError, when a video's layout or dtype is not the
        canonical one, as `read_video`.
    """
    from harness.metrics.frames import check_layout
    from harness.metrics.readings import read_video

    for side, video in {"reference": reference, **candidates}.items():
        check_layout(video, side)
    scores, read = _look(reference, candidates, metrics, read=True)
    alone = [reference, *candidates.values()]
    readings = [r if r is not None else read_video(v) for r, v in zip(read, alone, strict=True)]
    return Examination(scores, readings[0], dict(zip(candidates, readings[1:], strict=True)))


def _look(
    reference: Video,
    candidates: Mapping[str, Video],
    metrics: Mapping[str, Mapping[str, object]],
    *,
    read: bool,
) -> tuple[dict[str, Results], list[VideoReadings | None]]:
    """Every candidate's results; the readings of the reference and of each candidate that passed."""
    from harness.metrics.frames import FramesUnusableError, check_pair
    from harness.metrics.one_pass import Lane, OnePass, Side, start_meters

    if not metrics:
        raise MetricConfigError(
            "no metric is configured, so nothing would be compared; "
            "choose some from conf/metrics, for example metrics=default"
        )
    options = {name: build_options(name, metrics[name]) for name in metrics}
    rows = {name: load_metric(name) for name in metrics}
    lanes = {name: Lane(Side(video, read=read), rows) for name, video in candidates.items()}
    passing: list[Lane] = []
    for lane in lanes.values():
        try:
            check_pair(reference, lane.candidate.video)
        except FramesUnusableError as error:
            lane.end(error)
        else:
            passing.append(lane)
    side = Side(reference, read=read)
    if passing:
        OnePass(side, passing, rows, start_meters(rows, options, passing)).run()
    passed = [side if passing else None]
    passed += [lane.candidate if lane in passing else None for lane in lanes.values()]
    readings = [p.readings() if read and p is not None else None for p in passed]
    return {name: lane.results() for name, lane in lanes.items()}, readings
