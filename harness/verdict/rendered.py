"""From finished renders to verdicts, spending more only where the evidence so far does not decide.

equal bits, or nothing to compare   judged at once
otherwise                           probed, then judged by the local evidence
the videos must decide              healthy members are rendered, then further seeds
a bug in several components         the gap is divided among them
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from backends.base import Case, Variant
from harness.config.config import CandidateSpec, RunConfig
from harness.errors import WorkerError
from harness.judge import Renders, exact_findings, judge_pair, needs_probe
from harness.judge.decide import barred
from harness.judge.known import acting
from harness.localize.components import with_shares
from harness.localize.policies import policy_shares
from harness.probe.prober import Prober, Target
from harness.probe.stages import FULL_PRECISION, reduced_precision
from harness.records import Evidence, PairResult, RenderRecord
from harness.render.plan import Plan, RenderJob, make_plan, member_jobs
from harness.render.runner import ExecutionSettings, ProgressSink, render
from harness.store.store import Store
from harness.verdict.audits import with_audits
from harness.verdict.matching import Matched, match
from harness.verdict.pair import Local, compare_equal, compare_locally, equalising, joined
from harness.workers.client import RemoteError

Rendered = Sequence[tuple[RenderJob, RenderRecord]]


@dataclass(frozen=True)
class _Pair:
    """A candidate and a case, the case as both sides render it, and the reference they are held to."""

    case: Case
    candidate: CandidateSpec
    matched: Matched


class Judging:
    """Judges every pair of a run, in the order of its cases and candidates."""

    def __init__(
        self,
        config: RunConfig,
        store: Store,
        settings: ExecutionSettings,
        progress: ProgressSink,
        rendered: Rendered,
    ) -> None:
        self._config, self._store, self._settings = config, store, settings
        self._progress = progress
        self._rendered = list(rendered)
        self._local: dict[_PairKey, Local] = {}

    def pairs(self) -> list[PairResult]:
        """Every pair's result; renders and probes what is still needed on the way."""
        matched = [(c, match(self._config.reference, c)) for c in self._config.candidates]
        pairs = [
            _Pair(mine.of(case), candidate, mine)
            for case in self._config.cases
            for candidate, mine in matched
        ]
        with self._prober() as prober:
            for pair in pairs:
                self._probe(prober, pair)
                self._audit(prober, pair)
        results = [self._judge(pair) for pair in pairs]
        if not self._config.judge.shares:
            return results
        with self._prober() as prober:
            return [
                with_shares(prober, result, self._local.get(_key(pair)))
                for pair, result in zip(pairs, results, strict=True)
            ]

    @property
    def render_keys(self) -> list[str]:
        """Every render that was asked for so far, healthy members included."""
        return [record.key for _, record in self._rendered]

    def _prober(self) -> Prober:
        return Prober(
            self._store,
            self._settings.connect,
            self._settings.plugins,
            self._settings.timeout_s,
            self._settings.run_folder / "logs",
        )

    def _judge(self, pair: _Pair) -> PairResult:
        """Judge on what there is; then with healthy members; then with one seed more at a time."""
        seeds, members = list(self._config.seeds), list[str]()
        while True:
            result = judge_pair(
                self._store, self._renders(pair, seeds, members), self._config.metrics,
                self._local.get(_key(pair)),
            )  # fmt: skip
            undecided = result.verdict == "inconclusive" and self._decidable(pair, result)
            if not undecided:
                return result
            if not members:
                members = self._members(pair)
            elif len(seeds) < self._config.judge.max_seeds:
                seeds.append(next(s for s in range(len(seeds) + 1) if s not in seeds))
            else:
                return result
            self._render_more(pair, seeds, members)

    def _decidable(self, pair: _Pair, result: PairResult) -> bool:
        """Whether renders could still decide: the local stages ran and none of their checks stands
        against the pair."""
        local = self._local.get(_key(pair))
        return (
            local is not None
            and local.data is not None
            and len(self._members(pair)) > 0
            and all(e.outcome != "unscored" for e in local.evidence)
            and not barred(result.findings, result.coverage, result.distances)
        )

    def _members(self, pair: _Pair) -> list[str]:
        member = self._equalising(pair)
        lower = self._at_precision(pair).name != pair.matched.spec.name
        return [
            *self._config.judge.ensemble,
            *([member] if member else []),
            # At another precision the plain reference is a healthy member, too.
            *(["plain"] if lower else []),
        ]

    def _at_precision(self, pair: _Pair) -> Variant:
        """The reference as its members are rendered: at the candidate's precision, if that is less."""
        reference = self._target(pair, pair.matched.spec.name)
        reduced = reduced_precision(self._target(pair, pair.candidate.name))
        if reduced is None:
            return reference.variant
        lower = reference.at({**FULL_PRECISION, **reduced}).variant
        if lower.options == reference.variant.options:
            return reference.variant
        return replace(lower, name=f"{lower.name} at {lower.options['dtype']}")

    def _renders(self, pair: _Pair, seeds: Sequence[int], members: Sequence[str]) -> Renders:
        reference, plain = pair.matched.spec.name, self._config.reference.name
        return Renders(
            self._of(pair, reference, 0, seeds, "plain"),
            self._of(pair, reference, 1, seeds, "plain"),
            self._of(pair, pair.candidate.name, 0, seeds, "plain"),
            {
                name: self._of(pair, self._at_precision(pair).name, 0, seeds, name)
                for name in members
            },
            self._of(pair, plain, 0, seeds, "plain") if plain != reference else [],
            pair.matched.declared,
        )

    def _of(
        self, pair: _Pair, variant: str, repeat: int, seeds: Sequence[int], member: str
    ) -> list[RenderRecord]:
        wanted = (pair.case.name, variant, repeat, member)
        found = {
            job.seed: record
            for job, record in self._rendered
            if (job.case.name, job.variant.name, job.repeat, job.member) == wanted
        }
        return [found[seed] for seed in seeds if seed in found]

    def _render_more(self, pair: _Pair, seeds: Sequence[int], members: Sequence[str]) -> None:
        """Render this pair at `seeds` and the reference as `members`; the store has the rest."""
        case = next(case for case in self._config.cases if case.name == pair.case.name)
        wider = self._config.model_copy(
            update={"seeds": tuple(seeds), "cases": (case,), "candidates": (pair.candidate,)}
        )
        plan = make_plan(wider)
        known = {_job_key(job) for job, _ in self._rendered}
        variant = self._at_precision(pair)
        reference = pair.matched.spec.name
        jobs = [*plan.jobs, *member_jobs(plan, {case.name}, reference, members, variant).jobs]
        # The reference is asked again even where it is known: it says which inputs are shared.
        wanted = [job for job in jobs if job.role == "reference" or _job_key(job) not in known]
        fresh = render(Plan(tuple(wanted)), self._store, self._settings, self._progress)
        self._rendered += [(job, r) for job, r in fresh if _job_key(job) not in known]

    def _probe(self, prober: Prober, pair: _Pair) -> None:
        if not self._config.judge.probe or _key(pair) in self._local:
            return
        renders = self._renders(pair, self._config.seeds, ())
        sides = list(zip(renders.reference, renders.candidate, strict=True))
        targets = self._targets(pair)
        if any(r.status != "ok" for side in sides for r in side):
            return  # the pair's verdict is that status
        short = None
        if not any(needs_probe(self._store, a, b) for a, b in sides):
            short = compare_equal(prober, self._store, pair.case, targets, sides[0][0])
            if all(e.outcome != "differs" for e in short.evidence):
                self._local[_key(pair)] = short.preceded_by(pair.matched.unscored())
                return
        local = compare_locally(
            prober,
            self._store,
            pair.case,
            *targets,
            sides,
            self._config.judge,
            self._equalising(pair),
        )
        local = local.preceded_by(pair.matched.unscored())
        local = local if short is None else joined(short, local)
        self._local[_key(pair)] = self._with_shares(prober, pair, targets, local, sides[0])

    def _with_shares(
        self,
        prober: Prober,
        pair: _Pair,
        targets: tuple[Target, Target],
        local: Local,
        first: tuple[RenderRecord, RenderRecord],
    ) -> Local:
        """With each acting policy's share of the gap, where policies are all that separates the two."""
        kept = acting(exact_findings(self._store, *first, local))
        if (
            not kept
            or pair.matched.declared
            or any(e.outcome in ("differs", "unscored") for e in local.evidence)
        ):
            return local
        before = prober.fresh_calls
        try:
            shares = policy_shares(
                prober, pair.case, *targets, kept, pair.candidate.match.share, self._config.seeds[0]
            )
        except (RemoteError, WorkerError) as error:
            # The verdict stands without them.
            detail = f"the policies' shares of the gap could not be worked out: {error}"
            noted = Evidence(stage="exact", check="policy.shares", outcome="noted", detail=detail)
            return replace(local, evidence=[*local.evidence, noted])
        spent = local.guided_calls + prober.fresh_calls - before
        return replace(local, shares=shares, guided_calls=spent)

    def _audit(self, prober: Prober, pair: _Pair) -> None:
        """Add the audits of what lies beneath the stages to a pair that was compared."""
        local = self._local.get(_key(pair))
        renders = self._renders(pair, self._config.seeds, ())
        keys = (renders.reference[0].pipeline_key, renders.candidate[0].pipeline_key)
        if local is None or keys[0] is None or keys[1] is None:
            return
        sides = self._targets(pair)
        opened = self._store.pipeline(keys[0]), self._store.pipeline(keys[1])
        self._local[_key(pair)] = with_audits(
            local, prober, pair.case, sides, opened, self._config.judge.probe_seeds[0]
        )

    def _targets(self, pair: _Pair) -> tuple[Target, Target]:
        names = pair.matched.spec.name, pair.candidate.name
        return self._target(pair, names[0]), self._target(pair, names[1])

    def _target(self, pair: _Pair, variant: str) -> Target:
        job = next(j for j, _ in self._rendered if j.variant.name == variant)
        return Target(job.variant, job.python, job.threads)

    def _equalising(self, pair: _Pair) -> str | None:
        renders = self._renders(pair, self._config.seeds, ())
        keys = (renders.reference[0].pipeline_key, renders.candidate[0].pipeline_key)
        if keys[0] is None or keys[1] is None:
            return None
        return equalising(self._store.pipeline(keys[0]), self._store.pipeline(keys[1]))


_PairKey = tuple[str, str]


def _key(pair: _Pair) -> _PairKey:
    return pair.case.name, pair.candidate.name


def _job_key(job: RenderJob) -> tuple[str, str, int, int, str]:
    return job.case.name, job.variant.name, job.repeat, job.seed, job.member
