"""Error rates and power of the sequential tests, by simulation, and what they refuse."""

import math

import numpy as np
import pytest

from harness.judge.evalues import (
    ALPHA,
    bimodal,
    equivalence_evidence,
    rank_evidence,
    seeds_to_decide,
    smallest_margin,
)

RUNS = 2000


def _ever_rejects(
    rng: np.random.Generator, members: int, inflation: float, seeds: int
) -> int | None:
    """The first number of seeds at which the test, looked at after each, says different."""
    candidate: list[float] = []
    healthy: list[list[float]] = []
    for seed in range(1, seeds + 1):
        candidate.append(inflation * float(np.exp(0.3 * rng.standard_normal())))
        healthy.append(np.exp(0.3 * rng.standard_normal(members)).tolist())
        if rank_evidence(candidate, healthy) >= 1 / ALPHA:
            return seed
    return None


@pytest.mark.parametrize("members", [4, 8])
def test_false_alarms_stay_below_alpha_however_often_one_looks(members: int) -> None:
    """A candidate at the very edge of what is tolerated, exchangeable with the members."""
    rng = np.random.default_rng(members)
    alarms = sum(_ever_rejects(rng, members, 2.0, 30) is not None for _ in range(RUNS))
    # ALPHA bounds the truth; three standard errors of the simulation are allowed on top.
    assert alarms / RUNS <= ALPHA + 3 * math.sqrt(ALPHA / RUNS)


@pytest.mark.parametrize(("members", "at_most"), [(4, 5), (8, 3)])
def test_a_far_candidate_is_called_in_the_fewest_seeds(members: int, at_most: int) -> None:
    rng = np.random.default_rng(1)
    found = [_ever_rejects(rng, members, 8.0, 30) for _ in range(300)]
    assert np.median([seed or 99 for seed in found]) <= at_most
    assert seeds_to_decide(members) == at_most


def test_a_distance_that_is_not_finite_counts_as_far() -> None:
    assert rank_evidence([math.nan] * 6, [[1.0] * 4] * 6) > 1 / ALPHA


def test_without_members_there_is_no_evidence() -> None:
    assert rank_evidence([math.inf] * 50, [[]] * 50) == 1.0


def test_equivalence_is_proven_inside_the_margin_and_not_at_its_edge() -> None:
    rng = np.random.default_rng(0)
    assert equivalence_evidence(0.05 * rng.standard_normal(20), margin=0.3) >= 1 / ALPHA
    assert equivalence_evidence([math.nan] * 20, margin=0.3) < 1

    # The worst case at the edge: a clipped mean of exactly the margin, however often one looks.
    proven = 0
    for _ in range(RUNS):
        seen = 0.3 * np.where(rng.random(40) < 0.5, 1 - 0.25, 1.25)
        proven += any(equivalence_evidence(seen[:n], 0.3) >= 1 / ALPHA for n in range(8, 41, 4))
    assert proven / RUNS <= ALPHA + 3 * math.sqrt(ALPHA / RUNS)


def test_equivalence_is_not_proven_for_a_rare_large_difference() -> None:
    """Mostly nothing, and sometimes a jump that puts the mean on the edge: the hard case for bets."""
    rng = np.random.default_rng(1)
    proven = 0
    for _ in range(RUNS):
        seen = np.where(rng.random(40) < 0.8, 1.25, 0.0)  # mean 1.0, in units of the margin
        proven += any(equivalence_evidence(seen[:n], 1.0) >= 1 / ALPHA for n in range(8, 41, 4))
    assert proven / RUNS <= ALPHA + 3 * math.sqrt(ALPHA / RUNS)


def test_the_smallest_margin_is_one_that_is_proven() -> None:
    differences = (0.05 * np.random.default_rng(3).standard_normal(20)).tolist()
    margin = smallest_margin(differences)
    assert 0 < margin < 0.2
    assert equivalence_evidence(differences, margin) >= 1 / ALPHA
    assert smallest_margin(differences[:2]) == math.inf
    assert smallest_margin([*differences, math.nan]) == math.inf


def test_two_groups_of_healthy_distances_are_recognised() -> None:
    assert bimodal([1e-6, 1.2e-6, 0.9e-6, 0.3, 0.31])
    assert not bimodal([1e-6, 1.2e-6, 2e-6, 3e-6, 1.5e-6])
    assert not bimodal([1e-6, 0.3])
