"""How much of the gap each component makes: exact Shapley shares over runs with exchanged components.

The components that differ, and only these, are taken from either side in every combination. The runs are
short: the transformer is asked at few steps and its output kept until the next, while the solver takes
every step of the schedule. v(S) = |y_S - y_0|^2 / |y_0|^2 is the squared gap that the candidate's
components S make in the reference, y the decoded frames if the decoder differs, else the final latents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from backends.base import ScheduleTable
from backends.stages.questions import Question
from harness.errors import WorkerError
from harness.judge.causes import obscured, summarise
from harness.judge.limits import relative
from harness.judge.measured import Answers, Array, LocalData
from harness.localize.chains import EXCHANGED, Call, Chains, image, start
from harness.localize.search import shapley
from harness.probe.prober import Prober, Shared, Target
from harness.probe.stages import FULL_PRECISION, reduced_precision, share_inputs
from harness.records import Component, Evidence, PairResult, Share
from harness.workers.client import RemoteError

MOST_COMPONENTS = 6
"""Exact shares need 2^n runs."""

MOST_CALLS = 40
"""Guided calls that the shares may cost, so that they stay below the verdict's; seeds are given up for
it, down to two."""

CANCELLING = 1.25
"""How much more than the gap the parts must make alone for it to be said."""

RESAMPLES = 2000
Gaps = Mapping[frozenset[Component], NDArray[np.float64]]
"""v(S) for every set of components, one value a seed."""


@dataclass(frozen=True)
class Division:
    """The shares of a gap, and what is to be said about them: where there are none, why."""

    shares: list[Share] = field(default_factory=list[Share])
    says: list[str] = field(default_factory=list[str])


def divide(
    prober: Prober,
    data: LocalData,
    sides: tuple[Target, Target],
    named: Sequence[Component],
    evidence: Sequence[Evidence],
) -> Division:
    """Divide the gap among those of the `named` components that can be exchanged."""
    differing: list[Component] = [c for c in EXCHANGED if c in named]
    if len(differing) < 2:
        return Division()
    if len(differing) > MOST_COMPONENTS:
        return Division(says=[f"The gap was not divided: {len(differing)} components differ."])
    try:
        gaps = measured_gaps(prober, data, sides, differing, evidence)
    except (RemoteError, WorkerError, _CannotExchangeError) as error:
        return Division(says=[f"The gap could not be divided among the components: {error}"])
    division = shares_of(differing, gaps)
    outside = [c for c in named if c not in EXCHANGED]
    if outside and division.shares:
        division.says.append(
            f"The shares leave out {' and '.join(outside)}, which the stages do not go through."
        )
    return division


def measured_gaps(
    prober: Prober,
    data: LocalData,
    sides: tuple[Target, Target],
    differing: Sequence[Component],
    evidence: Sequence[Evidence],
) -> Gaps:
    """v(S) for every set S of the `differing` components.

    Raises `RemoteError` or `WorkerError` as `Prober` does.
    """
    return _Exchange(prober, data, sides, differing, evidence).gaps()


def with_shares(
    prober: Prober, result: PairResult, data: LocalData, sides: tuple[Target, Target]
) -> PairResult:
    """`result` with its gap divided, if it is a bug of more than one component; else as it is."""
    if result.verdict != "bug":
        return result
    before = prober.fresh_calls
    named: list[Component] = [
        f.component for f in result.findings if f.kind == "component" and f.component
    ]
    division = divide(prober, data, sides, named, result.evidence)
    if not division.shares and not division.says:
        return result
    calls = prober.fresh_calls - before
    by_component = {s.component: s.share for s in division.shares}
    findings = [
        f.model_copy(update={"share": by_component.get(f.component)})
        if f.kind == "component" and f.component else f
        for f in result.findings
    ]  # fmt: skip
    # The largest share first; what has none keeps its place in the order of the data flow.
    findings.sort(key=lambda f: -(f.share or 0.0) if f.kind == "component" else math.inf)
    cost = result.cost_guided_calls + calls
    return result.model_copy(
        update={
            "shares": division.shares,
            "findings": findings,
            "reasons": [*result.reasons, *division.says],
            "cost_guided_calls": cost,
            "cost_locating_calls": result.cost_locating_calls + calls,
            "summary": summarise(
                result.case, result.reference, result.candidate, result.verdict, result.reasons,
                findings, cost, [*division.says, *obscured(result.evidence)],
            ),
        }
    )  # fmt: skip


def shares_of(differing: Sequence[Component], gaps: Gaps) -> Division:
    """Shares of the mean gap over seeds, with bootstrapped intervals, and what cancels. Pure.

    >>> a, b = frozenset({"text"}), frozenset({"decoder"})
    >>> gaps = {frozenset(): np.zeros(2), a: np.full(2, 4.0), b: np.full(2, 1.0), a | b: np.full(2, 1.0)}
    >>> [s.share for s in shares_of(["text", "decoder"], gaps).shares]
    [2.0, -1.0]
    """
    everything = frozenset(differing)
    if not all(np.isfinite(values).all() for values in gaps.values()):
        return Division(says=["The gap was not divided: with some components exchanged, the run is not"
                              " finite or has another shape."])  # fmt: skip
    total = gaps[everything]
    largest = max(float(values.mean()) for values in gaps.values())
    if largest == 0:
        return Division(says=["None of the components that differ changes this case's video."])
    if float(total.mean()) < 1e-6 * largest:
        return Division(says=[
            f"{_list(differing)} cancel: together they leave no gap, although alone they make one."
        ])  # fmt: skip
    per_seed = [
        shapley(differing, {chosen: float(found[i]) for chosen, found in gaps.items()}.__getitem__)
        for i in range(len(total))
    ]
    values: dict[Component, NDArray[np.float64]] = {
        c: np.array([found[c] for found in per_seed]) for c in differing
    }
    drawn = np.random.default_rng(0).integers(len(total), size=(RESAMPLES, len(total)))
    shares: list[Share] = []
    for component, found in values.items():
        with np.errstate(divide="ignore", invalid="ignore"):  # a resample may have no gap
            again = found[drawn].mean(axis=1) / total[drawn].mean(axis=1)
        low, high = np.quantile(again, [0.025, 0.975])
        mean = float(found.mean() / total.mean())
        shares.append(Share(component=component, share=mean, low=float(low), high=float(high)))
    shares.sort(key=lambda s: -s.share)
    return Division(shares, _cancelling(differing, gaps, shares))


def _cancelling(differing: Sequence[Component], gaps: Gaps, shares: Sequence[Share]) -> list[str]:
    everything: frozenset[Component] = frozenset(differing)
    total = float(gaps[everything].mean())
    says: list[str] = []
    for share in shares:
        if share.share < 0:
            rest: frozenset[Component] = frozenset(differing) - {share.component}
            without = float(gaps[rest].mean())
            says.append(
                f"{share.component} works against the rest ({share.share:.0%} of the gap): without its"
                f" difference the gap would be {math.sqrt(without / total):.3g} times as large."
            )
    alone = sum(float(v.mean()) for chosen, v in gaps.items() if len(chosen) == 1)
    if alone > CANCELLING * total:
        says.append(
            f"Alone, {_list(differing)} make {alone / total:.3g} times the squared gap that they make"
            " together: they cancel in part, or the videos are as far apart as videos can be."
        )
    return says


def _list(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


class _CannotExchangeError(Exception):
    """The two sides' parts do not fit each other."""


class _Exchange:
    """Asks both sides for the runs of every combination."""

    def __init__(
        self,
        prober: Prober,
        data: LocalData,
        sides: tuple[Target, Target],
        differing: Sequence[Component],
        evidence: Sequence[Evidence],
    ) -> None:
        self._prober, self._data, self._differing = prober, data, differing
        found = [e for e in evidence if e.outcome == "differs" and e.component in differing]
        reduced = reduced_precision(sides[1])
        # A difference that float32 does not have is divided at the precision that has it.
        exact = {e.component for e in found if e.stage != "oracle"}
        if reduced is None or exact >= set(differing):
            self._targets = tuple(side.at(FULL_PRECISION) for side in sides)
            self._own = data.reference.full, data.candidate.full
        else:
            self._targets = sides[0].at({**FULL_PRECISION, **reduced}), sides[1]
            self._own = data.reference.reduced, data.candidate.reduced
        self._tables = tuple(self._table(side) for side in (0, 1))
        steps = data.steps
        worst = {e.step for e in found if e.component in ("transformer", "guidance")}
        ends = (steps[0], steps[len(steps) // 2], steps[-1])
        self._steps = [step for step in steps if step in ends or step in worst]

    def gaps(self) -> Gaps:
        """v(S) for every set S of the components that differ."""
        chains, ends, seeds = self._plan()
        answers = self._answers(chains, seeds)
        return {
            chosen: np.array([
                relative(answers[ends[frozenset(), seed]], answers[ends[chosen, seed]]) ** 2
                for seed in seeds
            ])
            for chosen in _subsets(self._differing)
        }  # fmt: skip

    def _plan(self) -> tuple[Chains, dict[tuple[frozenset[Component], int], str], tuple[int, ...]]:
        seeds = self._data.settings.seeds
        total = len(self._tables[0].timesteps)
        while True:
            chains = Chains(self._differing, self._steps, total, self._pictured)
            ends = {
                (chosen, seed): chains.end(chosen, seed)
                for seed in seeds
                for chosen in _subsets(self._differing)
            }
            if chains.guided_calls <= MOST_CALLS or len(seeds) <= 2:
                return chains, ends, seeds
            seeds = seeds[:-1]

    @property
    def _pictured(self) -> bool:
        """Whether a picture's latents, which every prediction takes, are exchanged."""
        return "image_encoder" in self._differing and self._data.case.image is not None

    def _table(self, side: int) -> ScheduleTable:
        if side == 0 or "schedule" not in self._differing:
            return self._data.table
        found = ScheduleTable(**self._of(1).facts["own"]["schedule"])
        mine, other = len(self._data.table.timesteps), len(found.timesteps)
        if mine != other:
            raise _CannotExchangeError(f"the schedules have {mine} and {other} steps")
        return found

    def _of(self, side: int) -> Answers:
        found = self._own[side]
        if found is None:
            raise _CannotExchangeError("a side was not probed at the precision that it is run in")
        return found

    def _answers(self, chains: Chains, seeds: Sequence[int]) -> dict[str, Array]:
        tensors = self._starts(seeds)
        with TemporaryDirectory(prefix="parity-shares-") as folder:
            for side, batch in chains.phases():
                for text, schedule in sorted({(c.text, c.schedule) for c in batch}):
                    shared = self._shared(text, schedule, Path(folder))
                    calls = [c for c in batch if (c.text, c.schedule) == (text, schedule)]
                    given = {name: tensors[name] for name in _named(calls) if name in tensors}
                    found = self._prober.ask(
                        self._targets[side], self._data.case, shared,
                        [c.question for c in calls], given,
                    )  # fmt: skip
                    tensors |= found.tensors
        return tensors

    def _starts(self, seeds: Sequence[int]) -> dict[str, Array]:
        """Initial latents, and an image's latents in units of the reference's scale."""
        full, tensors = self._data.reference.full, dict[str, Array]()
        for seed in seeds:
            for side in (0, 1):
                tensors[f"{start(side, seed)}.0.in"] = full.tensors[f"s{seed}.{self._steps[0]}.in"]
        if not {"noise", "image_encoder"} & set(self._differing):
            return tensors
        questions = [Question(f"own{seed}", "own", seed=seed) for seed in seeds]
        for side in (0, 1):
            found = self._prober.ask(self._targets[side], self._data.case, Shared(), questions, {})
            scale = float(found.pipeline.policies.get("image_scale") or 1.0)
            for seed in seeds:
                tensors[f"{start(side, seed)}.0.in"] = found.tensors[f"own{seed}.initial"]
                if self._pictured:
                    own = float(full.pipeline.policies.get("image_scale") or 1.0)
                    picture = found.tensors[f"own{seed}.image"]
                    tensors[image(side, seed)] = picture * np.float32(own / scale)
        return tensors

    def _shared(self, text: int, schedule: int, folder: Path) -> Shared:
        """Text of one side and the schedule of one, the image's scale being the reference's."""
        here = folder / f"text{text}-schedule{schedule}"
        here.mkdir(exist_ok=True)
        own = replace(self._of(text), pipeline=self._data.reference.full.pipeline)
        path = share_inputs(own, self._tables[schedule], here, "float32")
        return Shared(path, ("text", "unconditional", "schedule", "image"), "float32")


def _named(calls: Sequence[Call]) -> set[str]:
    """Every tensor that some calls name and others, or nobody, may have answered."""
    names = set[str]()
    for call in calls:
        asked = call.question
        names |= {asked.image, f"{asked.source}.0.in"}
        names |= {f"{asked.source}.{step}.in" for step in asked.steps}
        for source in asked.sources:
            names.add(source)
            names |= {
                f"{source}.{k}.{n}" for k in asked.steps for n in ("in", "branches", "velocity")
            }
    return names


def _subsets(components: Sequence[Component]) -> list[frozenset[Component]]:
    sizes = range(len(components) + 1)
    return [frozenset(s) for s in chain.from_iterable(combinations(components, n) for n in sizes)]
