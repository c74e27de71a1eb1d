"""A float32 distance near its limit is measured once more in float64, where rounding all but vanishes.

Same mathematics: the distance falls with the unit roundoff; answers come in float32, so almost all of
them are then equal. Other mathematics: it stays. Only a backend that computes in float64 can be asked.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.judge.local import branch_distance
from harness.prober import Answers
from harness.records import Evidence

CHECK = "collapse.transformer"

NEAR = 2.0
"""Within this factor of its limit, either way, a distance is near it; healthy ones lie at a third."""

SHRINKS = 8.0
"""How far rounding must fall."""


def narrow_call(chain: Sequence[Evidence]) -> Evidence | None:
    """The transformer's collapse where its distance is near the limit; None elsewhere."""
    found = next((e for e in chain if e.check == CHECK and e.outcome != "unscored"), None)
    if found is None or found.value is None or not found.limit:
        return None
    return found if found.limit / NEAR < found.value < found.limit * NEAR else None


def settled(
    chain: Sequence[Evidence], narrow: Evidence, asked: tuple[Answers, Answers] | str
) -> list[Evidence]:
    """The chain with what float64 says of its `narrow` call; a text is why it could not be asked."""
    return [_settle(e, asked) if e is narrow else e for e in chain]


def _settle(narrow: Evidence, asked: tuple[Answers, Answers] | str) -> Evidence:
    if isinstance(asked, str):
        told = f"; near its limit, and float64 could not be asked: {asked}"
        return narrow.model_copy(update={"detail": narrow.detail + told})
    value = branch_distance(*asked, "precise", "precise", narrow.step or 0)
    stays = value > (narrow.value or 0.0) / SHRINKS
    told = "it stays, so this is no rounding" if stays else "rounding"
    return narrow.model_copy(
        update={
            "outcome": "differs" if stays else "agrees",
            "detail": f"{narrow.detail}; near its limit, in float64 {value:.2g}: {told}",
        }
    )
