"""The renders of a run, found pair by pair; more are made where a verdict needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from backends.base import Case, Variant
from harness.config.config import CandidateSpec, RunConfig
from harness.probe.prober import Target
from harness.probe.stages import FULL_PRECISION, reduced_precision
from harness.records import RenderRecord
from harness.render.plan import Plan, RenderJob, make_plan, member_jobs
from harness.render.runner import ExecutionSettings, ProgressSink, render
from harness.store.store import Store
from harness.verdict.matching import Matched
from harness.verdict.result import Renders


@dataclass(frozen=True)
class Pair:
    """A candidate and a case, the case as both sides render it, and the reference they are held to."""

    case: Case
    candidate: CandidateSpec
    matched: Matched


class RenderPool:
    """Every render of a run so far, controls included."""

    def __init__(
        self,
        config: RunConfig,
        store: Store,
        settings: ExecutionSettings,
        progress: ProgressSink,
        rendered: Sequence[tuple[RenderJob, RenderRecord]],
    ) -> None:
        self.store = store
        self._config, self._settings, self._progress = config, settings, progress
        self._rendered = list(rendered)

    @property
    def keys(self) -> list[str]:
        """Of every render that was asked for so far."""
        return [record.key for _, record in self._rendered]

    def sides(self, pair: Pair, seeds: Sequence[int]) -> list[tuple[RenderRecord, RenderRecord]]:
        """(reference, candidate) at each of `seeds`."""
        found = self.renders(pair, seeds, ())
        return list(zip(found.reference, found.candidate, strict=True))

    def renders(self, pair: Pair, seeds: Sequence[int], controls: Sequence[str]) -> Renders:
        """All renders of `pair` at `seeds`, with the reference as each of `controls`."""
        reference, plain = pair.matched.spec.name, self._config.reference.name
        lower = self._at_precision(pair).name
        return Renders(
            self._of(pair, reference, 0, seeds, "plain"),
            self._of(pair, reference, 1, seeds, "plain"),
            self._of(pair, pair.candidate.name, 0, seeds, "plain"),
            {name: self._of(pair, lower, 0, seeds, name) for name in controls},
            self._of(pair, plain, 0, seeds, "plain") if plain != reference else [],
            pair.matched.declared,
        )

    def targets(self, pair: Pair) -> tuple[Target, Target]:
        """How reference and candidate are opened."""
        return self._target(pair.matched.spec.name), self._target(pair.candidate.name)

    def controls(self, pair: Pair, equalising: str | None) -> list[str]:
        """The legitimate variants of the reference that show how far videos may lie apart."""
        lower = self._at_precision(pair).name != pair.matched.spec.name
        return [
            *self._config.judge.ensemble,
            *([equalising] if equalising else []),
            *(["plain"] if lower else []),  # at another precision the plain reference is one, too
        ]

    def render_more(self, pair: Pair, seeds: Sequence[int], controls: Sequence[str]) -> None:
        """Render `pair` at `seeds` and the reference as `controls`; the store has the rest."""
        case = next(case for case in self._config.cases if case.name == pair.case.name)
        wider = self._config.model_copy(
            update={"seeds": tuple(seeds), "cases": (case,), "candidates": (pair.candidate,)}
        )
        plan, reference = make_plan(wider), pair.matched.spec.name
        extra = member_jobs(plan, {case.name}, reference, controls, self._at_precision(pair))
        known = {_job_key(job) for job, _ in self._rendered}
        # The reference is asked again even where it is known: it says which inputs are shared.
        jobs = [
            job
            for job in (*plan.jobs, *extra.jobs)
            if job.role == "reference" or _job_key(job) not in known
        ]
        fresh = render(Plan(tuple(jobs)), self.store, self._settings, self._progress)
        self._rendered += [(job, r) for job, r in fresh if _job_key(job) not in known]

    def _at_precision(self, pair: Pair) -> Variant:
        """The reference as its controls are rendered: at the candidate's precision, if that is less."""
        reference, candidate = self.targets(pair)
        reduced = reduced_precision(candidate)
        if reduced is None:
            return reference.variant
        lower = reference.at({**FULL_PRECISION, **reduced}).variant
        if lower.options == reference.variant.options:
            return reference.variant
        return replace(lower, name=f"{lower.name} at {lower.options['dtype']}")

    def _of(
        self, pair: Pair, variant: str, repeat: int, seeds: Sequence[int], control: str
    ) -> list[RenderRecord]:
        wanted = (pair.case.name, variant, repeat, control)
        found = {
            job.seed: record
            for job, record in self._rendered
            if (job.case.name, job.variant.name, job.repeat, job.member) == wanted
        }
        return [found[seed] for seed in seeds if seed in found]

    def _target(self, variant: str) -> Target:
        job = next(j for j, _ in self._rendered if j.variant.name == variant)
        return Target(job.variant, job.python, job.threads)


def _job_key(job: RenderJob) -> tuple[str, str, int, int, str]:
    return job.case.name, job.variant.name, job.repeat, job.seed, job.member
