"""One pass over the frames of a reference and all its candidates, for every meter and reader at once.

Only a few frames are in memory at a time, however long the videos are. Frames are measured in threads
(OpenCV, numpy and torch release the interpreter's lock) and collected in order, so that the result
does not depend on the number of threads.
"""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.metrics.base import Meter, Metric, Score, Tally, Traits, Unscored
from harness.metrics.frames import FrameSize, FramesUnusableError, RangeCheck, Video
from harness.metrics.moment import Moment
from harness.metrics.options import Options
from harness.metrics.readings import FrameReadings, Reader, VideoReadings, read_frame

log = logging.getLogger(__name__)

MAXIMUM_THREADS = 8
KEPT_BYTES = 31 << 20
"""glibc keeps freed blocks up to the size of the largest one that was freed, 32 MiB at most."""


class Side:
    """One video on its way; it is also read (see `readings`) where that is wanted."""

    def __init__(self, video: Video, *, read: bool) -> None:
        self.video = video
        self.values = RangeCheck()
        self.reader = Reader() if read else None
        self._last: Moment | None = None

    def step(self, raw: NDArray[Any]) -> Moment:
        """The next frame as a moment."""
        self.values.add(raw)
        index = 0 if self._last is None else self._last.index + 1
        self._last = Moment(index, raw, self._last)
        return self._last

    def readings(self) -> VideoReadings:
        """What was read. Raises: ValueError, when nothing was asked for."""
        if self.reader is None:
            raise ValueError("this video was not read")
        return self.reader.result(self.values)


class Lane:
    """One candidate on its way beside the reference: a tally for every metric that still counts."""

    def __init__(self, candidate: Side, metrics: Mapping[str, Metric[Any]]) -> None:
        self.candidate = candidate
        self.tallies: dict[str, Tally[Any]] = {}
        self._metrics = metrics
        self._unscored: dict[str, Unscored] = {}

    def add(self, name: str, measured: Any) -> None:
        """Collect what one metric measured in the next frame."""
        if name in self.tallies:
            self.tallies[name].add(measured)

    def drop(self, unscored: Unscored) -> None:
        """One metric has no score after all; what is found first stays."""
        self.tallies.pop(unscored.metric, None)
        self._unscored.setdefault(unscored.metric, unscored)

    def end(self, error: FramesUnusableError) -> None:
        """The two videos cannot be compared: no metric has a score."""
        for metric in self._metrics.values():
            self.drop(metric.traits.unscored(error.reason, error.remedy))

    def results(self) -> dict[str, Score | Unscored]:
        """One result per metric, in the order in which they were asked for."""
        return {name: self._result(name) for name in self._metrics}

    def _result(self, name: str) -> Score | Unscored:
        if name not in self.tallies:
            return self._unscored[name]
        traits = self._metrics[name].traits
        try:
            score = self.tallies[name].score()
        except Exception as error:
            return failed(traits, error)
        if not math.isnan(score.value):
            return score
        return traits.unscored(
            "the pooled value is NaN although both videos are finite",
            "this is a defect of the metric; keep the two videos and report it",
        )


def failed(traits: Traits, error: Exception) -> Unscored:
    """A metric that raised: it must not cost the others, nor look like a good score."""
    log.error("metric %s failed", traits.name, exc_info=error)
    return traits.unscored(
        f"{type(error).__name__}: {error}",
        "this is a defect of the metric or its library; the log has the traceback",
    )


def start_meters(
    metrics: Mapping[str, Metric[Any]], options: Mapping[str, Options], lanes: Sequence[Lane]
) -> dict[str, Meter[Any]]:
    """Put every metric to work on lanes of equal size, or note there why it cannot score them."""
    meters: dict[str, Meter[Any]] = {}
    for name, metric in metrics.items():
        started = _start(metric, options[name], lanes[0].candidate.video.shape)
        for lane in lanes:
            if isinstance(started, Unscored):
                lane.drop(started)
            else:
                lane.tallies[name] = started.tally()
                meters[name] = started
    return meters


def _start(metric: Metric[Any], options: Options, shape: tuple[int, ...]) -> Meter[Any] | Unscored:
    traits, (count, height_px, width_px) = metric.traits, shape[:3]
    if count < traits.minimum_frames:
        return traits.unscored(
            f"{traits.name} needs {traits.minimum_frames} frames, the video has {count}",
            f"render at least {traits.minimum_frames} frames, or drop {traits.name} for this case",
        )
    try:
        return metric.start(FrameSize(height_px, width_px), options)
    except Exception as error:
        return failed(traits, error)


@dataclass(frozen=True)
class _Frame:
    """One frame of all sides, and the work on it that is under way."""

    moments: list[Moment]
    legal: list[Lane]
    measured: dict[str, Future[list[Any]]]
    read: list[Future[FrameReadings] | None]


class OnePass:
    """The pass itself: `run` leads all frames past the meters and the readers.

    lanes: candidates of the reference's shape and dtype, started by `start_meters`.
    """

    def __init__(
        self,
        reference: Side,
        lanes: Sequence[Lane],
        metrics: Mapping[str, Metric[Any]],
        meters: Mapping[str, Meter[Any]],
    ) -> None:
        self._reference, self._lanes = reference, lanes
        self._sides = [reference, *(lane.candidate for lane in lanes)]
        self._metrics, self._meters = metrics, meters

    def run(self) -> None:
        """What a video raises while it is decoded is raised here; then no lane's results count."""
        _keep_freed_memory()
        threads = min(_cores(), MAXIMUM_THREADS)
        under_way: deque[_Frame] = deque()
        with ThreadPoolExecutor(threads) as pool:
            for raws in zip(*(side.video for side in self._sides), strict=True):
                under_way.append(self._submit(pool, raws))
                if len(under_way) > threads:
                    self._collect(under_way.popleft())
            while under_way:
                self._collect(under_way.popleft())
        for lane in self._lanes:
            values = lane.candidate.values
            error = self._reference.values.error("reference") or values.error("candidate")
            if error is not None:
                lane.end(error)

    def _submit(self, pool: ThreadPoolExecutor, raws: Sequence[NDArray[Any]]) -> _Frame:
        moments = [side.step(raw) for side, raw in zip(self._sides, raws, strict=True)]
        of_lane = dict(zip(self._lanes, moments[1:], strict=True))
        # of a video that holds an illegal value, the values are counted further, but no more
        legal = [
            lane
            for lane in self._lanes
            if self._reference.values.legal and lane.candidate.values.legal
        ]
        measured = {
            name: pool.submit(meter.measure, moments[0], [of_lane[lane] for lane in legal])
            for name, meter in self._meters.items()
            if moments[0].index >= meter.first_frame and any(name in ln.tallies for ln in legal)
        }
        read = [
            pool.submit(read_frame, moment) if side.reader is not None else None
            for side, moment in zip(self._sides, moments, strict=True)
        ]
        return _Frame(moments, legal, measured, read)

    def _collect(self, frame: _Frame) -> None:
        for name, future in frame.measured.items():
            try:
                found = future.result()
            except Exception as error:
                for lane in frame.legal:
                    lane.drop(failed(self._metrics[name].traits, error))
                continue
            for lane, measured in zip(frame.legal, found, strict=True):
                lane.add(name, measured)
        for side, row in zip(self._sides, frame.read, strict=True):
            if side.reader is not None and row is not None:
                side.reader.add(row.result())
        for moment in frame.moments:
            moment.before = None  # or a chain of all frames would stay in memory


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _keep_freed_memory() -> None:
    """Let the C library reuse the blocks that frames take, rather than return them and ask again.

    Fresh pages cost more than the arithmetic on them: an SSIM map of 480x720 px took 143 ms so, and
    takes 23 ms since a large block has been freed. Other C libraries are not affected.
    """
    np.empty(KEPT_BYTES, dtype=np.uint8)
