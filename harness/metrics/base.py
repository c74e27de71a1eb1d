"""The records that every metric speaks in: what it is, what it measured, or why it could not.

Imports neither numpy nor pydantic, so that `import harness.metrics` stays far below 50 ms.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from harness.metrics.frames import FrameSize
    from harness.metrics.moment import Moment
    from harness.metrics.options import Options

OptionValue = bool | int | float | str
OptionsT = TypeVar("OptionsT", bound="Options")
MeasuredT = TypeVar("MeasuredT")
CollectedT = TypeVar("CollectedT", contravariant=True)


@dataclass(frozen=True)
class MetricSpec:
    """One metric as it was applied: enough to tell whether two scores may be compared.

    weights: source and digest of what a learned metric measures with; empty for a formula.
    """

    name: str
    version: int
    options: Mapping[str, OptionValue]
    unit: str
    higher_is_better: bool
    weights: str = ""

    def cache_key(self) -> str:
        """Name, version, options and weights in one canonical string, e.g. `psnr@1{"tile_px":16}`."""
        options = json.dumps(dict(self.options), sort_keys=True, separators=(",", ":"))
        weights = f" with {self.weights}" if self.weights else ""
        return f"{self.name}@{self.version}{options}{weights}"


@dataclass(frozen=True)
class WorstFrame:
    """The video frame (counted from 0) with the worst value."""

    index: int
    value: float


@dataclass(frozen=True)
class Region:
    """A rectangle in pixels of one frame; (x, y) is its upper left corner."""

    frame: int
    y: int
    x: int
    height: int
    width: int
    value: float


@dataclass(frozen=True)
class Score:
    """What one metric says about one candidate video.

    value: pooled over the video, in `unit`; infinite where the formula says so (PSNR of equals).
    per_frame: `per_frame[i]` belongs to video frame `first_frame + i`; a metric of transitions
        starts at frame 1, because it books a transition on the frame that it leads to.
    extra: further series that the pooled value was made from, named with their unit.
    """

    spec: MetricSpec
    value: float
    per_frame: tuple[float, ...]
    worst_frame: WorstFrame
    worst_region: Region | None
    first_frame: int = 0
    extra: Mapping[str, tuple[float, ...]] = field(default_factory=dict[str, "tuple[float, ...]"])
    kind: Literal["score"] = "score"

    @property
    def unit(self) -> str:
        return self.spec.unit


@dataclass(frozen=True)
class Unscored:
    """A metric that could not be computed: counted, and never a pass.

    remedy: what to do next, a command where there is one.
    """

    metric: str
    reason: str
    remedy: str
    kind: Literal["unscored"] = "unscored"


@dataclass(frozen=True)
class Traits:
    """What holds for a metric whatever its options are.

    perfect: the value of a video compared with itself.
    symmetric: swapping reference and candidate leaves the value unchanged.
    minimum_frames: a shorter video is unscored.
    version: to be raised whenever the same inputs would give other numbers.
    """

    name: str
    version: int
    unit: str
    higher_is_better: bool
    perfect: float
    symmetric: bool
    minimum_frames: int = 1

    def spec(self, options: Options, weights: str = "") -> MetricSpec:
        return MetricSpec(
            self.name, self.version, options.model_dump(), self.unit, self.higher_is_better, weights
        )

    def unscored(self, reason: str, remedy: str) -> Unscored:
        return Unscored(self.name, reason, remedy)


class Tally(Protocol[CollectedT]):
    """Collects what was measured of one candidate, in constant memory but for a number a frame."""

    def add(self, measured: CollectedT) -> None:
        """Collect the next frame."""
        ...

    def score(self) -> Score:
        """The score of all frames, after the last one."""
        ...


class Meter(Protocol[MeasuredT]):
    """One metric at work on a reference and its candidates.

    first_frame: the first frame that it measures; 1 for a metric of transitions.
    """

    @property
    def first_frame(self) -> int: ...

    def measure(self, reference: Moment, candidates: Sequence[Moment]) -> list[MeasuredT]:
        """All that needs pixels of one frame, for each candidate: what depends on the reference
        alone is computed once. Called for any frame in any thread, so it changes nothing."""
        ...

    def tally(self) -> Tally[MeasuredT]:
        """An empty tally for one candidate."""
        ...


@dataclass(frozen=True)
class Metric(Generic[OptionsT]):
    """A registry row's target: the traits, the options it takes, and how its meter is made.

    start: (size of the frames, options) -> a meter, or why these videos cannot be scored.
    """

    traits: Traits
    options: type[OptionsT]
    start: Callable[[FrameSize, OptionsT], Meter[Any] | Unscored]


def find_worst_frame(
    per_frame: Sequence[float], *, higher_is_better: bool, first_frame: int = 0
) -> WorstFrame:
    """The first worst entry, as a video frame; NaN counts as the worst of all.

    >>> find_worst_frame([30.0, 20.0, 25.0], higher_is_better=True, first_frame=1)
    WorstFrame(index=2, value=20.0)
    """

    def badness(position: int) -> float:
        value = per_frame[position]
        if math.isnan(value):
            return math.inf
        return -value if higher_is_better else value

    position = max(range(len(per_frame)), key=badness)
    return WorstFrame(first_frame + position, per_frame[position])
