"""One metric of one pair over its seeds: the worst seed, the floor, and what was not scored."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from harness.errors import StoreError
from harness.metrics.base import Score, Unscored
from harness.metrics.serialise import result_from_jsonable
from harness.records import PairResult

_TITLES = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "lpips_alex_untrained": "LPIPS untrained",
}


@dataclass(frozen=True)
class MetricReading:
    """One metric of a pair: a result for each seed, those of the reference's own rerun, and those of
    its healthy members."""

    name: str
    by_seed: dict[int, Score | Unscored]
    floor: list[Score | Unscored]
    ensemble: list[Score | Unscored]

    @property
    def band(self) -> list[float]:
        """The values of the reruns and of the healthy members: the noise band."""
        return [r.value for r in (*self.floor, *self.ensemble) if isinstance(r, Score)]

    @property
    def title(self) -> str:
        """The metric's name for people."""
        return metric_title(self.name)

    @property
    def worst(self) -> Score | None:
        """The worst scored seed; None if no seed was scored."""
        return _worst(self.by_seed.values())

    @property
    def worst_seed(self) -> int | None:
        """The seed of `worst`."""
        return next((s for s, result in self.by_seed.items() if result is self.worst), None)

    @property
    def floor_worst(self) -> Score | None:
        """The worst scored rerun; None if there is none."""
        return _worst(self.floor)

    @property
    def weights(self) -> str:
        """Source and digest of what a learned metric measured with; empty for a formula."""
        return self.worst.spec.weights if self.worst else ""

    @property
    def unscored(self) -> list[Unscored]:
        """The seeds that could not be scored."""
        return [result for result in self.by_seed.values() if isinstance(result, Unscored)]


def metric_title(name: str) -> str:
    """A metric's name for people."""
    return _TITLES.get(name, name.replace("_", " "))


def read_metrics(pair: PairResult) -> dict[str, MetricReading]:
    """Every metric of `pair`, by name. Raises: StoreError, when a result cannot be read."""
    return {name: _read(name, pair) for name in pair.scores}


def _read(name: str, pair: PairResult) -> MetricReading:
    try:
        results = [result_from_jsonable(result) for result in pair.scores[name]]
        floor = [result_from_jsonable(result) for result in pair.floor_scores.get(name, [])]
        ensemble = [
            result_from_jsonable(result)
            for scores in pair.ensemble_scores.values()
            for result in scores.get(name, [])
        ]
        by_seed = dict(zip(pair.seeds, results, strict=True))
    except ValueError as error:
        raise StoreError(
            f"the results of metric {name!r} for {pair.candidate!r} are not those of this version,"
            " one for each seed; run the same command again"
        ) from error
    ways = sorted(
        {r.spec.cache_key() for r in (*results, *floor, *ensemble) if isinstance(r, Score)}
    )
    if len(ways) > 1:
        raise StoreError(
            f"metric {name!r} of {pair.candidate!r} was measured in several ways, which do not compare:"
            f" {', '.join(ways)}; run the same command again"
        )
    return MetricReading(name, by_seed, floor, ensemble)


def _worst(results: Iterable[Score | Unscored]) -> Score | None:
    return max((r for r in results if isinstance(r, Score)), key=_badness, default=None)


def _badness(score: Score) -> float:
    if math.isnan(score.value):
        return math.inf
    return -score.value if score.spec.higher_is_better else score.value
