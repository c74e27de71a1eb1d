"""`parity probe`: the local verdict alone. Stages on the same inputs; no video is rendered.

It answers "do the two compute the same?" for a fraction of a render's cost, and cannot answer "does
the loop that users call do what its stages do?": that takes a render.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backends.base import Case, Variant
from backends.stages.questions import Question
from harness.config.config import CandidateSpec, RunConfig, VariantSpec
from harness.errors import WorkerError
from harness.judge import judge_unrendered
from harness.probe.prober import Prober, Shared, Target
from harness.probe.stages import FULL_PRECISION
from harness.records import PairResult, PipelineRecord, VerdictName
from harness.store.store import Store
from harness.verdict.audits import with_audits
from harness.verdict.matching import match
from harness.verdict.pair import compare_locally, equalising
from harness.workers.client import RemoteError
from harness.workers.connect import Connector, in_own_process


def probe_pairs(
    config: RunConfig,
    plugins: Sequence[str],
    store: Store,
    logs: Path,
    connect: Connector = in_own_process,
) -> list[PairResult]:
    """The local verdict of every case and candidate. Raises `ParityError`."""
    with Prober(store, connect, plugins, config.timeout_s, logs) as prober:
        return [
            _pair(prober, store, config, case, candidate)
            for case in config.cases
            for candidate in config.candidates
        ]


def _pair(
    prober: Prober, store: Store, config: RunConfig, case: Case, candidate: CandidateSpec
) -> PairResult:
    matched = match(config.reference, candidate)
    case, mine, other = matched.of(case), _target(matched.spec), _target(candidate)
    names, seed = (matched.spec.name, candidate.name), config.judge.probe_seeds[0]
    try:
        pipelines = (
            _identity(prober, case, mine, seed),
            _identity(prober, case, other, seed),
        )
        local = compare_locally(
            prober, store, case, mine, other, (), config.judge, equalising(*pipelines)
        )
        local = local.preceded_by(matched.unscored())
        local = with_audits(local, prober, case, (mine, other), pipelines, seed)
    except (RemoteError, WorkerError) as error:
        return judge_unrendered(case, names, candidate.match.share, (), None, _lost(error))
    return judge_unrendered(case, names, candidate.match.share, matched.declared, local, None)


def _target(spec: VariantSpec) -> Target:
    variant = Variant(spec.name, spec.backend, spec.options, spec.patch)
    return Target(variant, spec.python, spec.threads)


def _identity(prober: Prober, case: Case, target: Target, seed: int) -> PipelineRecord:
    own = Question("own", "own", seed=seed)
    return prober.ask(target.at(FULL_PRECISION), case, Shared(), [own], {}).pipeline


def _lost(error: RemoteError | WorkerError) -> tuple[VerdictName, str]:
    absent = isinstance(error, RemoteError) and error.outcome == "unsupported"
    return ("unsupported" if absent else "error"), str(error)
