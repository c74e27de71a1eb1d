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

from harness.metrics.base import Meter, Metric, Score, Unscored
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
    """One candidate on its way beside the reference, and its metrics at work."""

    def __init__(self, candidate: Side, metrics: Mapping[str, Metric[Any]]) -> None:
        self.candidate = candidate
        self._metrics = metrics
        self._meters: dict[str, Meter[Any]] = {}
        self._unscored: dict[str, Unscored] = {}

    def start(self, name: str, options: Options) -> None:
        """Put one metric to work, or note why these videos cannot be scored by it."""
        metric = self._metrics[name]
        count, *size = self.candidate.video.shape[:3]
        least = metric.traits.minimum_frames
        if count < least:
            self._unscored[name] = metric.traits.unscored(
                f"{name} needs {least} frames, the video has {count}",
                f"render at least {least} frames, or drop {name} for this case",
            )
            return
        try:
            meter = metric.start(FrameSize(*size), options)
        except Exception as error:
            self._fail(name, error)
            return
        if isinstance(meter, Unscored):
            self._unscored[name] = meter
        else:
            self._meters[name] = meter

    def measure(self, reference: Moment, candidate: Moment) -> dict[str, Any]:
        """Every meter's measurement of one frame, or the exception that it ended with."""
        found: dict[str, Any] = {}
        for name, meter in self._meters.copy().items():
            if candidate.index < meter.first_frame:
                continue
            try:
                found[name] = meter.measure(reference, candidate)
            except Exception as error:  # one broken metric must not cost the others
                found[name] = error
        return found

    def add(self, measured: Mapping[str, Any]) -> None:
        """Collect what `measure` found for the next frame."""
        for name, what in measured.items():
            if name not in self._meters:
                continue
            if isinstance(what, Exception):
                self._fail(name, what)
            else:
                self._meters[name].add(what)

    def end(self, error: FramesUnusableError) -> None:
        """The two videos cannot be compared: no metric has a score."""
        for name, metric in self._metrics.items():
            self._unscored[name] = metric.traits.unscored(error.reason, error.remedy)
        self.stop()

    def stop(self) -> None:
        """Measure no further frame: a value that no metric may see has passed."""
        self._meters.clear()

    def results(self) -> dict[str, Score | Unscored]:
        """One result per metric, in the order in which they were asked for."""
        return {name: self._result(name) for name in self._metrics}

    def _result(self, name: str) -> Score | Unscored:
        if name in self._meters:
            try:
                score = self._meters[name].score()
            except Exception as error:
                self._fail(name, error)
            else:
                if not math.isnan(score.value):
                    return score
                self._unscored[name] = self._metrics[name].traits.unscored(
                    "the pooled value is NaN although both videos are finite",
                    "this is a defect of the metric; keep the two videos and report it",
                )
        return self._unscored[name]

    def _fail(self, name: str, error: Exception) -> None:
        log.error("metric %s failed on %s", name, self.candidate.video.shape, exc_info=error)
        self._meters.pop(name, None)
        self._unscored[name] = self._metrics[name].traits.unscored(
            f"{type(error).__name__}: {error}",
            "this is a defect of the metric or its library; the log has the traceback",
        )


@dataclass(frozen=True)
class _Frame:
    """One frame of all sides, and the work on it that is under way."""

    moments: list[Moment]
    measured: list[Future[dict[str, Any]]]
    read: list[Future[FrameReadings] | None]


def run(reference: Side, lanes: Sequence[Lane]) -> None:
    """Lead all frames of the reference and the candidates past the lanes and the readers.

    What a video raises while it is decoded is raised here, and nothing that was measured counts.
    """
    _keep_freed_memory()
    sides = [reference, *(lane.candidate for lane in lanes)]
    threads = min(_cores(), MAXIMUM_THREADS)
    ahead = math.ceil(threads / max(1, len(lanes)))
    under_way: deque[_Frame] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for raws in zip(*(side.video for side in sides), strict=True):
            moments = [side.step(raw) for side, raw in zip(sides, raws, strict=True)]
            under_way.append(_submit(pool, sides, lanes, moments))
            if len(under_way) > ahead:
                _collect(under_way.popleft(), sides, lanes)
        while under_way:
            _collect(under_way.popleft(), sides, lanes)
    for lane in lanes:
        values = lane.candidate.values
        error = reference.values.error("reference") or values.error("candidate")
        if error is not None:
            lane.end(error)


def _submit(
    pool: ThreadPoolExecutor, sides: Sequence[Side], lanes: Sequence[Lane], moments: list[Moment]
) -> _Frame:
    for lane in lanes:
        if not (sides[0].values.legal and lane.candidate.values.legal):
            lane.stop()
    return _Frame(
        moments,
        [
            pool.submit(lane.measure, moments[0], moment)
            for lane, moment in zip(lanes, moments[1:], strict=True)
        ],
        [
            pool.submit(read_frame, moment) if side.reader is not None else None
            for side, moment in zip(sides, moments, strict=True)
        ],
    )


def _collect(frame: _Frame, sides: Sequence[Side], lanes: Sequence[Lane]) -> None:
    for lane, measured in zip(lanes, frame.measured, strict=True):
        lane.add(measured.result())
    for side, row in zip(sides, frame.read, strict=True):
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
