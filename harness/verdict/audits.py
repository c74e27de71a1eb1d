"""What lies beneath the stages of a pair: the files of its weights, and weights as they are used."""

from __future__ import annotations

from dataclasses import replace

from backends.base import Case
from harness.audit.in_run import audit_files
from harness.errors import WorkerError
from harness.probe.prober import Prober, Target
from harness.probe.weights_in_use import InUse, moves_weights, weights_in_use
from harness.records import Evidence, PipelineRecord
from harness.verdict.pair import Local
from harness.workers.client import RemoteError


def with_audits(
    local: Local,
    prober: Prober,
    case: Case,
    sides: tuple[Target, Target],
    opened: tuple[PipelineRecord, PipelineRecord],
    seed: int,
) -> Local:
    """`local` with the audits of its pair before its own evidence, because they name a cause.

    `opened` are the two pipelines as they were opened before.
    """
    before = prober.fresh_calls
    used = _in_use(prober, case, sides[1], seed) if moves_weights(sides[1]) else InUse([])
    if local.data is not None:
        opened = local.data.reference.full.pipeline, local.data.candidate.full.pipeline
    files = audit_files(case, (sides[0].variant, sides[1].variant), opened)
    return replace(
        local,
        evidence=[*files.evidence, *used.evidence, *local.evidence],
        findings=[*files.findings, *local.findings],
        guided_calls=local.guided_calls + prober.fresh_calls - before,
        places={**local.places, **used.places},
    )


def _in_use(prober: Prober, case: Case, candidate: Target, seed: int) -> InUse:
    try:
        return weights_in_use(prober, case, candidate, seed)
    except (RemoteError, WorkerError) as error:
        said = f"weights could not be hashed in use: {error}"
        check = "exact.weights_in_use"
        return InUse([Evidence(stage="exact", check=check, outcome="unscored", detail=said)])
