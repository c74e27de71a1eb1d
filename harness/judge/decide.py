"""From evidence to a verdict: pure decisions, no I/O.

What is decided so far: `broken` from hard failures, `bit_exact` from equality, and otherwise
`inconclusive` with the measured distances beside the rerun floor. A render that is missing makes the
pair `unsupported`, `error` or `not_run`. None of these is ever softened into an equivalence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.records import RenderRecord, SeedDistances, VerdictName


def missing(renders: Sequence[tuple[str, RenderRecord]]) -> tuple[VerdictName, list[str]] | None:
    """The verdict of a pair some of whose renders are not there; (role, record) for each of them."""
    for status in ("error", "unsupported", "not_run"):
        reasons = [
            f"{role}, seed {r.seed}: {r.message or status}"
            for role, r in renders
            if r.status == status
        ]
        if reasons:
            return status, reasons
    return None


def decide(
    failures: Sequence[str], distances: Sequence[SeedDistances], floor: Sequence[SeedDistances]
) -> tuple[VerdictName, list[str]]:
    """Verdict and reasons over all seeds.

    `failures` are the hard failures found in either side's video, with the side named.
    """
    if failures:
        return "broken", list(failures)
    if not distances:
        return "inconclusive", ["Nothing was compared: no seed was rendered on both sides."]
    if all(d.frames_equal and d.latents_equal for d in distances):
        return "bit_exact", [
            f"Latents and frames are equal in every bit over {_seeds(len(distances))}."
        ]
    worst = max(_or_inf(d.latents_rel_l2) for d in distances)
    first = min((d.first_step for d in distances if d.first_step is not None), default=None)
    where = "only after the last step" if first is None else f"from step {first} on"
    reasons = [
        f"Final latents differ by {worst:.3g} (relative L2, worst of {_seeds(len(distances))}),"
        f" {where}.",
        _floor_sentence(floor),
        "Whether this is rounding, chaos or a bug is not decided here: a distance alone cannot say.",
    ]
    return "inconclusive", reasons


def _floor_sentence(floor: Sequence[SeedDistances]) -> str:
    if not floor:
        return "No rerun of the reference was asked for, so its own scatter is unknown."
    scatter = max(_or_inf(d.latents_rel_l2) for d in floor)
    if scatter == 0.0 and all(d.frames_equal for d in floor):
        return "The reference rendered again in a fresh process is equal in every bit."
    return f"The reference rendered again in a fresh process differs from itself by {scatter:.3g}."


def _or_inf(value: float | None) -> float:
    return math.inf if value is None or math.isnan(value) else value


def _seeds(count: int) -> str:
    return f"{count} seed" if count == 1 else f"{count} seeds"
