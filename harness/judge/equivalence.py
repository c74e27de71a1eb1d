"""How small a change of the video's look the seeds prove: "different?" turned round.

That no difference was found says little after two seeds. This says how large a shift of each reading
(luminance, contrast, ...) could still be there; the unit is a seed, and every seed gives one paired
difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean

from harness.judge.evalues import seeds_to_prove, smallest_margin
from harness.judge.quality import NOTICEABLE, READINGS
from harness.metrics.readings import VideoReadings
from harness.records import Evidence


def equivalence(reference: Sequence[VideoReadings], candidate: Sequence[VideoReadings]) -> Evidence:
    """The smallest relative shift that is ruled out for every reading, at the stage's error rate.

    Its value is the largest of the readings' margins: all must hold, which needs no split of the error
    rate (intersection-union). It agrees where that is below what a person would notice, and is
    `noted` otherwise, because too few seeds are no difference. A reading of zero has no relative shift.
    """
    margins = {
        name: smallest_margin(shifts)
        for name in READINGS
        if (shifts := _shifts(name, reference, candidate)) is not None
    }
    widest = max(margins, key=margins.__getitem__, default=None)
    value = math.inf if widest is None else margins[widest]
    seeds, needed = len(reference), seeds_to_prove()
    if math.isfinite(value):
        detail = f"{seeds} seeds prove every reading to stay within {value:.2%} (widest: {widest})"
    elif seeds < needed:
        detail = f"{seeds} seed(s) prove no margin; {needed} are needed where nothing shifts"
    else:
        detail = f"{seeds} seeds prove no margin for {widest or 'any reading'}"
    return Evidence(
        stage="statistics",
        check="statistics.equivalence",
        outcome="agrees" if value <= NOTICEABLE else "noted",
        detail=f"shift of the readings a person would see: {detail}; {NOTICEABLE:.0%} is noticeable",
        value=value,
        limit=NOTICEABLE,
        unit="relative shift",
    )


def _shifts(
    name: str, reference: Sequence[VideoReadings], candidate: Sequence[VideoReadings]
) -> list[float] | None:
    """(candidate - reference) / mean reference, a seed each; None where the reference reads zero."""
    a = [getattr(video, name).value for video in reference]
    b = [getattr(video, name).value for video in candidate]
    size = mean(a)
    if size == 0:
        return None
    return [(y - x) / size for x, y in zip(a, b, strict=True)]
