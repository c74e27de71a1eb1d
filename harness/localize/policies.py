"""How much each deliberate difference contributes to the gap between two stacks that keep their own.

The candidate runs with every subset of its own policies, the others taken from the reference. With
x_S its final latents when it keeps the policies S, the value of S is |x_S - x_0|^2 / |x_0|^2, and a
policy's share is its exact Shapley value over the value of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from backends.base import Case, ScheduleTable
from backends.stages.questions import Question
from harness.judge.known import KnownDifference
from harness.localize.search import shapley
from harness.probe.prober import Prober, Shared, Target
from harness.probe.stages import share_inputs

STEPS = 10
"""Runs are this short at most: 2^n of them are made, and a share hardly depends on their number."""


def policy_shares(
    prober: Prober,
    case: Case,
    reference: Target,
    candidate: Target,
    kept: Sequence[KnownDifference],
    shared: Sequence[str],
    seed: int,
) -> Mapping[str, float]:
    """The share of each of the policies `kept`, by id; `shared` are the factors that the pair shares
    anyway. Raises `RemoteError` or `WorkerError` as `Prober` does."""
    short = replace(case, steps=min(case.steps, STEPS))
    own = prober.ask(reference, short, Shared(), [Question("own", "own", seed=seed)], {})
    table = ScheduleTable(**own.facts["own"]["schedule"])
    run = [Question("run", "run", seed=seed)]
    with TemporaryDirectory(prefix="parity-policies-") as folder:
        inputs = share_inputs(own, table, Path(folder), str(own.pipeline.policies["latent_dtype"]))

        def final(chosen: frozenset[str]) -> np.ndarray:
            taken = {row.factor for row in kept if row.factor and row.id not in chosen}
            given = Shared(inputs, tuple(sorted(taken | set(shared))))
            return prober.ask(candidate, short, given, run, {}).tensors["run.final"].astype(float)

        nothing = final(frozenset())

        def value(chosen: frozenset[str]) -> float:
            return float(((final(chosen) - nothing) ** 2).sum() / (nothing**2).sum())

        ids = [row.id for row in kept]
        shares, whole = shapley(ids, value), value(frozenset(ids))
    return {name: part / whole if whole > 0 else 0.0 for name, part in shares.items()}
