"""Error rates of the whole procedure, by simulation: every check, over as many seeds as it asks for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta
from synthetic_pairs import Pairs, Spread

from harness.judge.decide import decide
from harness.judge.free import Divergence, free_evidence
from harness.judge.local import judge_local
from harness.records import SeedDistances, VerdictName

RUNS, MOST_SEEDS, MEMBERS = 1000, 8, 4

FULL, REDUCED, FREE = Spread(0.20, 0.10), Spread(0.08, 0.04), 0.40
"""Spreads of log(error) between healthy configurations: in float32, at reduced precision, of free
divergence. Measured in the self-test: log(value / limit) of healthy configurations has a standard
deviation of 0.12 in float32 and 0.05 in bfloat16 (transformer), the members' log(divergence) 0.02 in the
median and 0.41 at most. A ratio of two errors that are drawn from these spreads has 0.32 and 0.13.
"""


def _verdict(pairs: Pairs, rng: np.random.Generator, free: float) -> VerdictName:
    """Of one pair; `free` multiplies its divergence. Seeds are added while nothing is decided."""
    data = pairs.draw()
    local = judge_local(data)
    candidate: list[float] = []
    healthy: list[list[float]] = []
    for _ in range(MOST_SEEDS):
        candidate.append(free * _divergence(rng))
        healthy.append([_divergence(rng) for _ in range(MEMBERS)])
        divergence = Divergence(list(candidate), list(healthy), 1.0, 0.01)
        chain = [*local, *free_evidence(divergence, same_inputs=True)]
        seen = [_distance(s, value) for s, value in enumerate(candidate)]
        verdict, _ = decide([], seen, [], chain, divergence, probed=True)
        if verdict != "inconclusive":
            return verdict
    return "inconclusive"


def _divergence(rng: np.random.Generator) -> float:
    return float(1e-3 * np.exp(FREE * rng.standard_normal()))


def _distance(seed: int, value: float) -> SeedDistances:
    return SeedDistances(
        seed=seed,
        latents_equal=False,
        frames_equal=False,
        latents_rel_l2=value,
        first_step=0,
        per_step_rel_l2=[],
    )


def test_less_than_one_healthy_pair_in_a_hundred_is_called_a_bug() -> None:
    pairs, rng = Pairs(0, FULL, REDUCED), np.random.default_rng(1)
    verdicts = [_verdict(pairs, rng, free=1.0) for _ in range(RUNS)]
    alarms = sum(verdict in ("bug", "broken") for verdict in verdicts)
    highest = float(beta.ppf(0.95, alarms + 1, RUNS - alarms))
    assert highest <= 0.01, f"{alarms} false alarms: at 95 % confidence up to {highest:.2%}"
    assert sum(verdict in ("rounding", "chaotic") for verdict in verdicts) >= 0.97 * RUNS


@pytest.mark.parametrize(
    ("full", "reduced", "free"), [(12.0, 1.0, 1.0), (1.0, 2.5, 1.0), (1.0, 1.0, 16.0)],
    ids=["float32", "reduced precision", "videos"],
)  # fmt: skip
def test_a_larger_error_in_any_stage_is_called(full: float, reduced: float, free: float) -> None:
    pairs, rng = Pairs(0, FULL, REDUCED, full, reduced), np.random.default_rng(1)
    called = sum(_verdict(pairs, rng, free) == "bug" for _ in range(100))
    assert called >= 95, called
