"""The step at which two free runs part is named where no stage is."""

from __future__ import annotations

import numpy as np
import pytest

from harness.judge.parting import Trace, parting

STEPS, LIMIT = 6, 1e-5


def _run(**changed: int) -> dict[str, np.ndarray]:
    """Sketches of one run; of what is named, all from its step on are others."""
    rng = np.random.default_rng(0)
    names = ("input_sketches", "velocity_sketches", "latents_sketches")
    run = {name: rng.standard_normal((STEPS, 512)) for name in names}
    for name, step in changed.items():
        run[f"{name}_sketches"][step:] += 0.1 * rng.standard_normal(512)
    return run


@pytest.mark.parametrize("step", [0, 3])
def test_a_velocity_that_differs_on_equal_latents_is_the_transformer(step: int) -> None:
    found = parting(_run(), _run(velocity=step, latents=step, input=step + 1), LIMIT, seed=4)
    assert found is not None
    assert (found.component, found.step, found.seed) == ("transformer", step, 4)
    assert found.outcome == "differs" and f"step {step}" in found.detail


def test_a_result_that_differs_on_equal_velocities_is_the_solver() -> None:
    found = parting(_run(), _run(latents=2, velocity=3, input=3), LIMIT, seed=0)
    assert found is not None and (found.component, found.step) == ("solver", 2)


@pytest.mark.parametrize(
    "other",
    [
        _run(),
        _run(input=0, velocity=0, latents=0),
        {name: (1 + 1e-6) * values for name, values in _run().items()},
        {name: values[:4] for name, values in _run().items()},
    ],
    ids=["equal", "other noise", "within the limit", "fewer steps"],
)
def test_nothing_is_named_where_no_step_makes_the_difference(other: Trace) -> None:
    assert parting(_run(), other, LIMIT, seed=0) is None
