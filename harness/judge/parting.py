"""The step at which two free runs part, where no stage by itself differs.

Stages are asked without what acts across steps (a cache), and a run with it is held against no stages.
But reference and candidate ran under the same options, so that up to some step they are the same run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from harness.judge.limits import relative
from harness.records import Evidence

Trace = Mapping[str, NDArray[Any]]


def parting(reference: Trace, candidate: Trace, limit: float, seed: int) -> Evidence | None:
    """Who makes the first difference above `limit` (relative L2), in runs of one `seed`.

    The traces hold sketches of each step's input, guided velocity and result, (steps, 512). The
    transformer, where a velocity differs on inputs that do not; the solver, where a result does. None
    where the runs differ from the beginning, or grow apart without such a step.
    """
    names = ("input_sketches", "velocity_sketches", "latents_sketches")
    mine, other = ([side[name] for name in names] for side in (reference, candidate))
    if len(mine[0]) != len(other[0]):
        return None
    for step in range(len(mine[0])):
        given, velocity, result = (
            relative(a[step], b[step]) for a, b in zip(mine, other, strict=True)
        )
        if given > limit:
            return None
        if velocity <= limit and result <= limit:
            continue
        whose, value = ("transformer", velocity) if velocity > limit else ("solver", result)
        made = "guided velocity" if whose == "transformer" else "result"
        return Evidence(
            stage="free", check=f"free.parting.{whose}", component=whose, outcome="differs",
            detail=f"the runs part at step {step}: the same latents go in ({given:.2g}), and its {made}"
            f" differs by {value:.3g}",
            value=value, limit=limit, unit="relative L2", step=step, seed=seed,
        )  # fmt: skip
    return None
