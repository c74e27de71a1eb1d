"""Block calls that one side skips and the other makes: a cache that is on, or that takes too much."""

from __future__ import annotations

from collections.abc import Sequence

from harness.judge.arguments import Called
from harness.records import Evidence

SKIPPED = ".skipped"
"""Ends the name of the check."""


def judge_skipped(
    prefix: str, where: str, a: Sequence[Called], b: Sequence[Called]
) -> list[Evidence]:
    """What is noted where the transformer's calls of the candidate (`b`) skip another share of their
    blocks than the reference's (`a`) do; nothing where the shares are equal or were not counted.

    No difference by itself: a cache with a threshold may turn with the rounding.
    """
    ours, theirs = (_counted(calls) for calls in (a, b))
    if not ours or not theirs or _share(ours) == _share(theirs):
        return []
    return [
        Evidence(
            stage=prefix.partition(".")[0],
            check=f"{prefix}{SKIPPED}",
            component="transformer",
            outcome="noted",
            detail=f"{where} skips {_said(theirs)}; the reference's skips {_said(ours)}",
            value=_share(theirs),
            limit=_share(ours),
            unit="skipped share of block calls",
            step=next(
                (int(c.label) for c, skipped, _ in theirs if skipped and c.label.isdigit()), None
            ),
        )
    ]


_Counted = list[tuple[Called, int, int]]


def _counted(calls: Sequence[Called]) -> _Counted:
    """The transformer's calls, each with the number of its blocks that did not work and of all."""
    return [
        (call, call.blocks[1] - call.blocks[0], call.blocks[1])
        for call in calls
        if call.component == "transformer" and call.blocks is not None
    ]


def _share(counted: _Counted) -> float:
    return sum(skipped for _, skipped, _ in counted) / sum(total for _, _, total in counted)


def _said(counted: _Counted) -> str:
    skipped, total = sum(row[1] for row in counted), sum(row[2] for row in counted)
    if not skipped:
        return f"none of {total}"
    steps = list(dict.fromkeys(call.label for call, count, _ in counted if count))
    within = f"step {steps[0]}" if len(steps) == 1 else f"{len(steps)} steps from {steps[0]} on"
    return f"{skipped} of {total} block calls ({within})"
