"""How a run's pairs get their verdicts. Read it from top to bottom, beside `judge/README.md`.

    match       the reference that a candidate is held to: under what the candidate declares
    render      both, natively, on the same noise                           (made before: `session`)
    equal bits  are they equal, and does nothing shared hide a difference?  then a short comparison
    compare     else every stage on the same inputs, then the native runs, link by link  (`STAGES`)
    audit       the files beneath, and the weights as they are used
    decide      from the chain of checks; where only the videos can tell, controls are rendered,
                then further seeds, until it is decided
    share       a gap that several parts make is divided among them (that of registered differences
                before the audit)

Everything that asks pipelines goes through one `Prober`, one pipeline open at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from backends.base import Case
from backends.stages.questions import Question
from harness.config.config import CandidateSpec, RunConfig
from harness.errors import WorkerError
from harness.judge.decide import barred
from harness.judge.known import acting, known_difference
from harness.localize.components import with_shares
from harness.localize.policies import policy_shares
from harness.probe.prober import Prober, Shared, Target
from harness.probe.stages import FULL_PRECISION
from harness.records import Evidence, PairResult, PipelineRecord, RenderRecord, VerdictName
from harness.render.runner import ExecutionSettings
from harness.store.store import Store
from harness.verdict import stages
from harness.verdict.audits import audit_beneath
from harness.verdict.comparison import Comparison
from harness.verdict.exact_gate import exact_findings, needs_probe
from harness.verdict.matching import Matched, match, stage_by_stage
from harness.verdict.pool import Pair, RenderPool
from harness.verdict.result import judge_pair, judge_unrendered
from harness.workers.client import RemoteError

STAGES: tuple[Callable[[Comparison], None], ...] = (
    stages.steps_made,
    stages.ask_stages,
    stages.own_schedules,
    stages.generators,
    stages.float32_and_precision,
    stages.where_it_breaks,
    stages.where_it_differs,
    stages.arguments,
    stages.skipped,
    stages.native_links,
)
"""A comparison in full, in this order; see each stage for what it needs, asks, decides and explains."""


def judge_rendered(
    config: RunConfig, pool: RenderPool, settings: ExecutionSettings
) -> list[PairResult]:
    """The verdict of every pair of a run whose first renders are in `pool`; renders what more it takes.

    Raises `ParityError`, where the store cannot be read or a render that is asked for cannot be planned.
    """
    pairs = [
        Pair(mine.of(case), candidate, mine)
        for case in config.cases
        for candidate, mine in [(c, match(config.reference, c)) for c in config.candidates]
    ]
    with _prober(pool.store, settings) as prober:
        compared = [_compared(prober, config, pool, pair) for pair in pairs]
    results = [_decided(config, pool, pair, c) for pair, c in zip(pairs, compared, strict=True)]
    if not config.judge.shares:
        return results
    with _prober(pool.store, settings) as prober:
        return [
            r if c is None or c.data is None else with_shares(prober, r, c.data, c.sides)
            for r, c in zip(results, compared, strict=True)
        ]


def judge_probed(config: RunConfig, store: Store, settings: ExecutionSettings) -> list[PairResult]:
    """The verdict of every pair on its stages alone: `parity probe`, which renders nothing.

    It answers "do the two compute the same?" for a fraction of a render's cost, and cannot answer "does
    the loop that users call do what its stages do?": that takes a render. Raises `ParityError`.
    """
    with _prober(store, settings) as prober:
        return [
            _probed(prober, store, config, case, candidate)
            for case in config.cases
            for candidate in config.candidates
        ]


def compare(c: Comparison) -> None:
    """Carry out `STAGES`. A stage that cannot be carried out is `unscored`; what was found stays."""
    for stage in STAGES:
        try:
            stage(c)
        except (RemoteError, WorkerError) as error:
            c.unscored(error)
            return


def equalising(reference: PipelineRecord, candidate: PipelineRecord) -> str | None:
    """The control that gives the reference the candidate's epsilon of the last norm, if any."""
    mine, other = reference.policies["layer_norm_eps"], candidate.policies["layer_norm_eps"]
    if known_difference("layer_norm_eps", mine, other) is None:
        return None  # any other value is no registered difference
    return f"norm_eps:{other}"


def _compared(prober: Prober, config: RunConfig, pool: RenderPool, pair: Pair) -> Comparison | None:
    """Compare, audit, and work out what registered differences make of the gap. None where probing is
    off, or a render is missing: that is the verdict then."""
    renders = pool.sides(pair, config.seeds)
    if not config.judge.probe or any(r.status != "ok" for side in renders for r in side):
        return None
    opened = [pool.store.pipeline(record.pipeline_key or "") for record in renders[0]]
    targets = pool.targets(pair)
    c = _comparison(
        prober,
        pool.store,
        pair.case,
        targets,
        renders,
        config,
        pair.matched,
        (opened[0], opened[1]),
    )
    with c.counting():
        equal = not any(needs_probe(pool.store, a, b) for a, b in renders)
        if not (equal and _same_beyond(c)):
            beyond, c.places = c.places, {}
            compare(c)
            c.places |= beyond
            _share_policies(c, pair.candidate, pair.matched)
        audit_beneath(c)
    return c


def _same_beyond(c: Comparison) -> bool:
    """Whether two whose renders are equal in every bit are so beyond them, too.

    What differs in some calls only is not met again for certain, so it stays in the chain."""
    before = list(c.evidence)
    try:
        stages.beyond_equal_renders(c)
    except (RemoteError, WorkerError) as error:
        c.unscored(error)
    if all(e.outcome != "differs" for e in c.evidence):
        return True
    c.evidence = [*before, *(e for e in c.evidence[len(before) :] if e.component is not None)]
    return False


def _decided(config: RunConfig, pool: RenderPool, pair: Pair, c: Comparison | None) -> PairResult:
    """Judge on what there is; then with controls rendered; then with one seed more at a time."""
    seeds, controls = list(config.seeds), list[str]()
    while True:
        result = judge_pair(pool.store, pool.renders(pair, seeds, controls), config.metrics, c)
        if result.verdict != "inconclusive" or not _videos_decide(c, result):
            return result
        if not controls:
            controls = pool.controls(pair, None if c is None else c.equalising)
            if not controls:
                return result
        elif len(seeds) < config.judge.max_seeds:
            seeds.append(next(s for s in range(len(seeds) + 1) if s not in seeds))
        else:
            return result
        pool.render_more(pair, seeds, controls)


def _videos_decide(c: Comparison | None, result: PairResult) -> bool:
    """Whether renders could still decide: the stages were asked, and none of their checks stands against
    the pair."""
    return (
        c is not None
        and c.data is not None
        and all(e.outcome != "unscored" for e in c.evidence)
        and not barred(result.findings, result.coverage, result.distances)
    )


def _share_policies(c: Comparison, candidate: CandidateSpec, matched: Matched) -> None:
    """Each registered difference's share of the gap, where these are all that separates the two."""
    kept = acting(exact_findings(c.store, *c.renders[0], c))
    if (
        not kept
        or matched.declared
        or any(e.outcome in ("differs", "unscored") for e in c.evidence)
    ):
        return
    try:
        c.shares = policy_shares(
            c.prober, c.case, *c.as_run, kept, candidate.match.share, c.renders[0][0].seed
        )
    except (RemoteError, WorkerError) as error:  # the verdict stands without them
        detail = f"the policies' shares of the gap could not be worked out: {error}"
        c.add([Evidence(stage="exact", check="policy.shares", outcome="noted", detail=detail)])


def _probed(
    prober: Prober, store: Store, config: RunConfig, case: Case, candidate: CandidateSpec
) -> PairResult:
    matched = match(config.reference, candidate)
    case, names = matched.of(case), (matched.spec.name, candidate.name)
    targets = Target.of(matched.spec), Target.of(candidate)
    own = Question("own", "own", seed=config.judge.probe_seeds[0])
    try:
        opened = [
            prober.ask(side.at(FULL_PRECISION), case, Shared(), [own], {}).pipeline
            for side in targets
        ]
    except (RemoteError, WorkerError) as error:
        absent = isinstance(error, RemoteError) and error.outcome == "unsupported"
        lost: tuple[VerdictName, str] = ("unsupported" if absent else "error"), str(error)
        return judge_unrendered(case, names, candidate.match.share, (), None, lost)
    c = _comparison(prober, store, case, targets, (), config, matched, (opened[0], opened[1]))
    with c.counting():
        compare(c)
        audit_beneath(c)
    return judge_unrendered(case, names, candidate.match.share, matched.declared, c, None)


def _comparison(
    prober: Prober,
    store: Store,
    case: Case,
    as_run: tuple[Target, Target],
    renders: Sequence[tuple[RenderRecord, RenderRecord]],
    config: RunConfig,
    matched: Matched,
    opened: tuple[PipelineRecord, PipelineRecord],
) -> Comparison:
    reference, candidate = (replace(side, variant=stage_by_stage(side.variant)) for side in as_run)
    return Comparison(
        prober, store, case, reference, candidate, renders, config.judge,
        equalising(*opened), opened, as_run, evidence=matched.unscored(),
    )  # fmt: skip


def _prober(store: Store, settings: ExecutionSettings) -> Prober:
    return Prober(
        store, settings.connect, settings.plugins, settings.timeout_s, settings.run_folder / "logs"
    )
