"""A float32 distance at its limit or beyond, asked again in float64, where rounding all but vanishes.

Same mathematics: the distance falls with the unit roundoff; answers come in float32, so almost all of
them are then equal. Other mathematics: it stays. Scalar paths (sinusoids, tables, norms that code
computes in float32 by name) are in float64, too, so a candidate that computes one of them more exactly
than the reference is seen to be nearer to the truth, and is within its rights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from harness.judge.limits import relative
from harness.judge.local import branch_distance, transformer_limits
from harness.judge.measured import Answers, LocalData
from harness.records import Evidence

CHECK = "collapse.transformer"

NEAR = 2.0
"""Within this factor of its limit, either way, a distance is near it; healthy ones lie at a third."""

SHRINKS = 8.0
"""How far rounding must fall."""

SCALAR_PATHS = 1e-3
"""Distances up to this may come from the precision of a scalar path: the sinusoid of a timestep near
1000 errs by 6e-5 in float32. Beyond it nothing is asked."""

Place = tuple[int, int]
"""Step and seed."""

Ask = Callable[[str, Sequence[Place]], Answers | str]
"""Answers of `reference` or `candidate` in float64 at some places, as `predict_in_float64` names them; a
text is why they could not be had."""


def in_doubt(chain: Sequence[Evidence]) -> Evidence | None:
    """The transformer's collapse where float64 may decide it: near its limit, or beyond it by no more
    than the precision of a scalar path explains. None elsewhere."""
    found = next((e for e in chain if e.check == CHECK and e.outcome != "unscored"), None)
    if found is None or found.value is None or not found.limit:
        return None
    near = found.limit / NEAR < found.value < found.limit * NEAR
    beyond = found.outcome == "differs" and found.value <= SCALAR_PATHS
    return found if near or beyond else None


def settle(
    data: LocalData, chain: Sequence[Evidence], ask: Ask
) -> tuple[LocalData, list[Evidence]]:
    """The chain with what float64 says of a transformer in doubt, and the data with what was learned of
    the reference's own error. Costs a call or two, and more only where the candidate is the nearer."""
    found = in_doubt(chain)
    if found is None or found.step is None or found.seed is None:
        return data, list(chain)
    at = found.step, found.seed
    exact = ask("reference", [at])
    if isinstance(exact, str):
        return data, _replaced(chain, found, _unasked(found, exact))
    mine, other = _errors(data, exact, at)
    told = (
        f"; against the reference in float64, scalar paths included, the candidate lies at {other:.2g}"
        f" and the reference's own float32 at {mine:.2g}"
    )
    if found.value is not None and found.limit is not None and found.value < NEAR * found.limit:
        return data, _replaced(chain, found, _shrinks(found, exact, ask("candidate", [at])))
    if other > max(mine, found.limit or 0.0):
        return data, _replaced(chain, found, _with(found, found.outcome, told))
    return _nearer(data, chain, found, ask, told)


def _nearer(
    data: LocalData, chain: Sequence[Evidence], found: Evidence, ask: Ask, told: str
) -> tuple[LocalData, list[Evidence]]:
    """The worst place is one at which the candidate is nearer to float64 than the reference: so must be
    every other that passes its limit, and both the same mathematics in float64."""
    bounds = {step: bound.value for step, bound in transformer_limits(data).items()}
    places = [
        (step, seed)
        for step in data.steps
        for seed in data.settings.seeds
        if _float32_distance(data, (step, seed)) > bounds[step]
    ]
    exact, precise = ask("reference", places), ask("candidate", places)
    if isinstance(exact, str):
        return data, _replaced(chain, found, _unasked(found, exact))
    for at in places:
        bound = bounds[at[0]]
        mine, other = _errors(data, exact, at)
        if isinstance(precise, str):
            if other > bound:  # then only its own float64 could say what the rest is
                return data, _replaced(chain, found, _unasked(found, precise))
        elif other > max(mine, bound) or _branches(exact, precise, at) > bound / SHRINKS:
            return data, _replaced(chain, found, _with(found, "differs", told))
    errors = {
        step: max(_velocity_error(data, exact, at) for at in places if at[0] == step)
        for step in {step for step, _ in places}
    }
    told += ": it is more exact than the reference, whose float32 scalar paths explain the distance"
    agreed = _with(found, "agrees", told)
    return replace(data, reference_error=errors), _replaced(chain, found, agreed)


def _shrinks(found: Evidence, exact: Answers, precise: Answers | str) -> Evidence:
    if isinstance(precise, str):
        return _unasked(found, precise)
    at = found.step or 0, found.seed or 0
    value = _branches(exact, precise, at)
    stays = value > (found.value or 0.0) / SHRINKS
    told = "it stays, so this is no rounding" if stays else "rounding"
    outcome = "differs" if stays else "agrees"
    return _with(found, outcome, f"; near its limit, in float64 {value:.2g}: {told}")


def _unasked(found: Evidence, why: str) -> Evidence:
    """What lies within its limit stands; what does not may be a scalar path's precision, and is open."""
    outcome = "unscored" if found.outcome == "differs" else found.outcome
    where = "past" if found.outcome == "differs" else "near"
    return _with(found, outcome, f"; {where} its limit, and float64 could not be asked: {why}")


def _branches(exact: Answers, other: Answers, at: Place) -> float:
    step, seed = at
    return branch_distance(exact, other, f"precise.s{seed}", f"precise.s{seed}", step)


def _errors(data: LocalData, exact: Answers, at: Place) -> tuple[float, float]:
    """How far the reference's and the candidate's float32 branches lie from float64."""
    step, seed = at
    mine = "s" if data.equalised is None else "eq.s"
    sides = (data.reference.full, f"{mine}{seed}"), (data.candidate.full, f"s{seed}")
    a, b = (branch_distance(exact, side, f"precise.s{seed}", name, step) for side, name in sides)
    return a, b


def _velocity_error(data: LocalData, exact: Answers, at: Place) -> float:
    step, seed = at
    mine = "s" if data.equalised is None else "eq.s"
    return relative(
        exact.tensors[f"precise.s{seed}.{step}.velocity"],
        data.reference.full.tensors[f"{mine}{seed}.{step}.velocity"],
    )


def _float32_distance(data: LocalData, at: Place) -> float:
    step, seed = at
    mine = "s" if data.equalised is None else "eq.s"
    a, b = data.reference.full, data.candidate.full
    return branch_distance(a, b, f"{mine}{seed}", f"s{seed}", step)


def _with(found: Evidence, outcome: str, told: str) -> Evidence:
    return found.model_copy(update={"outcome": outcome, "detail": found.detail + told})


def _replaced(chain: Sequence[Evidence], old: Evidence, new: Evidence) -> list[Evidence]:
    return [new if e is old else e for e in chain]
