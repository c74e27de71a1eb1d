"""Free-running renders: is the whole divergence one that healthy members show, too?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from harness.judge.evalues import ALPHA, TOLERATED, bimodal, rank_evidence, seeds_to_decide
from harness.judge.limits import FEWEST_MEMBERS, relative
from harness.judge.local import branch_distance
from harness.judge.measured import TRANSFORMER_MEMBERS, LocalData
from harness.records import Evidence, SeedDistances

BUDGET_SLACK = 3.0
"""Members scatter; the predicted final error is trusted to this factor."""


@dataclass(frozen=True)
class Divergence:
    """How far the candidate ran from the reference, beside the healthy members.

    `candidate` holds one distance a seed, `healthy[s]` those of the members at that seed. `local` is
    the candidate's teacher-forced error in units of the members': what amplification has to work on.
    `chi` is the median healthy distance over the median distance between seeds, None with one seed.
    """

    candidate: list[float]
    healthy: list[list[float]]
    local: float
    chi: float | None

    @property
    def members(self) -> int:
        """The fewest members at any seed."""
        return min((len(values) for values in self.healthy), default=0)

    @property
    def in_band(self) -> bool:
        """Every seed within the tolerated factor of what a healthy member does there."""
        return all(
            value <= TOLERATED * max(members, default=0.0)
            for value, members in zip(self.candidate, self.healthy, strict=True)
        )

    @property
    def budgets(self) -> list[float]:
        """The predicted final error at each seed: healthy ones, amplified as the local error is."""
        scale = BUDGET_SLACK * max(1.0, self.local)
        return [scale * max(members, default=0.0) for members in self.healthy]

    @property
    def in_budget(self) -> bool:
        """Every seed within the error budget."""
        return all(v <= b for v, b in zip(self.candidate, self.budgets, strict=True))

    @property
    def evidence_against(self) -> float:
        """The rank e-value, distances taken in units of the local error."""
        scale = max(1.0, self.local)
        return rank_evidence([value / scale for value in self.candidate], self.healthy)


def diverge(
    distances: Sequence[SeedDistances],
    members: Mapping[str, Sequence[SeedDistances]],
    between: Sequence[float],
    local: LocalData | None,
) -> Divergence:
    """Gather what the free-running stage decides from; `between` are distances between seeds."""
    healthy = [
        [
            _number(d.latents_rel_l2)
            for found in members.values()
            for d in found
            if d.seed == mine.seed and not d.latents_equal
        ]
        for mine in distances
    ]
    every = [value for values in healthy for value in values]
    chi = median(every) / median(between) if every and between and median(between) > 0 else None
    return Divergence(
        [_number(d.latents_rel_l2) for d in distances],
        healthy,
        1.0 if local is None else _local_ratio(local),
        chi,
    )


def _number(value: float | None) -> float:
    return math.inf if value is None or math.isnan(value) else value


def _local_ratio(local: LocalData) -> float:
    """The candidate's teacher-forced distance from the reference over the members', at the run's
    precision; the median over steps."""
    a = local.reference.reduced or local.reference.full
    b = local.candidate.reduced or local.candidate.full
    plain = "" if local.reference.reduced is None else "plain."
    ratios: list[float] = []
    for step in local.steps:
        mine = median(
            branch_distance(a, b, f"s{seed}", f"s{seed}", step) for seed in local.settings.seeds
        )
        healthy = [
            branch_distance(a, a, f"{plain}s{seed}", f"{member}.s{seed}", step)
            for member in TRANSFORMER_MEMBERS
            for seed in local.settings.calibration_seeds
        ]
        typical = median([value for value in healthy if value > 0] or [0.0])
        if typical > 0:
            ratios.append(mine / typical)
    return median(ratios) if ratios else 1.0


def free_evidence(divergence: Divergence, same_inputs: bool) -> list[Evidence]:
    """What the free-running renders say. `same_inputs`: no policy separates the two runs."""
    if not divergence.candidate:
        return []
    healthy = [value for values in divergence.healthy for value in values]
    worst = max(divergence.candidate)
    seed_of = divergence.candidate.index(worst)
    band = bound = TOLERATED * max(divergence.healthy[seed_of], default=0.0)
    outcome = "agrees" if divergence.in_band else "noted"
    detail = (
        f"final latents: {worst:.3g}; {TOLERATED:g} times the largest healthy member {band:.3g}"
    )
    if divergence.members < FEWEST_MEMBERS:
        outcome = "unscored"
        detail += f"; only {divergence.members} healthy members, {FEWEST_MEMBERS} are needed"
    elif not same_inputs:
        detail += "; a policy separates the two runs, so the band says nothing about them"
    elif not divergence.in_band:
        bound = divergence.budgets[seed_of]
        detail += (
            f"; error budget {bound:.3g}, from a local error of {divergence.local:.2g} healthy ones"
        )
        outcome = "agrees" if divergence.in_budget else "differs"
    if bimodal(healthy):
        detail += "; the healthy members fall into two groups, so the reference itself is bimodal"
    if divergence.chi is not None:
        detail += f"; chi {divergence.chi:.2g}"
    found = [
        Evidence(
            stage="free",
            check="free.latents",
            outcome=outcome,
            detail=detail,
            value=worst,
            limit=bound,
            unit="relative L2",
            healthy=healthy,
        )
    ]
    if same_inputs and divergence.members:
        found.append(_statistics(divergence))
    return found


def _statistics(divergence: Divergence) -> Evidence:
    value, needed = divergence.evidence_against, 1 / ALPHA
    seeds = len(divergence.candidate)
    detail = (
        f"rank e-value {value:.3g} over {seeds} seed(s) and {divergence.members} healthy members;"
        f" {needed:.0f} says different, which takes at least {seeds_to_decide(divergence.members)}"
        " seeds"
    )
    return Evidence(
        stage="statistics",
        check="statistics.rank",
        outcome="differs" if value >= needed else "agrees" if divergence.in_band else "noted",
        detail=detail,
        value=value,
        limit=needed,
        unit="e-value",
    )


def seed_distances_between(finals: Sequence[object]) -> list[float]:
    """Relative distances between the reference's final latents at different seeds, all pairs."""
    import numpy as np

    arrays = [np.asarray(final) for final in finals]
    return [relative(a, b) for i, a in enumerate(arrays) for b in arrays[i + 1 :]]
