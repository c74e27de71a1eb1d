"""Steps that were not probed: a velocity that leaves the reference's although its input did not.

The two sides' own runs are compared step by step on sketches. With d_k the relative distance of their
latents before step k, g_k that of their guided velocities, and e the distance that healthy velocities
have on equal inputs, g_k / (d_k + e) is how much the model amplifies there, which varies slowly from
step to step. A step of which the loop made something else stands out from the probed ones, where the
links are known to hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.judge.limits import relative
from harness.records import Evidence

JUMP_FACTOR = 10.0
"""How far past the largest amplification at the probed steps another step may lie; healthy pairs of the
micro models reach 2.5."""

JUMP = ".jump"
"""Ends the name of the check."""

Trace = Mapping[str, NDArray[Any]]


def judge_jumps(
    reference: Trace, candidate: Trace, probed: Sequence[int], healthy: float, seed: int
) -> list[Evidence]:
    """Evidence against a step that is not among `probed`, or none.

    The traces are of the two renders at `seed` (see `backends.stages.trace`); `healthy` is e.
    """
    names = ("input_sketches", "velocity_sketches")
    (x, v), (y, w) = ([side[name] for name in names] for side in (reference, candidate))
    if x.shape != y.shape:
        return []  # another number of steps is found elsewhere
    gains = np.array([
        relative(v[k], w[k]) / (relative(x[k], y[k]) + healthy) for k in range(len(x))
    ])  # fmt: skip
    if not np.isfinite(gains).all():
        return []  # not finite: found elsewhere, by step
    bound = JUMP_FACTOR * max(1.0, *(gains[k] for k in probed if k < len(gains)))
    past = [k for k in range(len(gains)) if k not in probed and gains[k] > bound]
    if not past:
        return []
    step = past[0]
    return [
        Evidence(
            stage="native",
            check=f"native.candidate{JUMP}",
            component="loop",
            outcome="differs",
            detail="the candidate's own run: its velocity leaves the reference's"
            f" {gains[step]:.3g} times as much as its latents do, limit {bound:.3g}",
            value=float(gains[step]),
            limit=float(bound),
            unit="amplification",
            healthy=[float(gains[k]) for k in probed],
            step=step,
            seed=seed,
        )
    ]
