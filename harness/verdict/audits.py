"""What lies beneath the stages of a pair: the files of its weights, and weights as they are used."""

from __future__ import annotations

from harness.audit.in_run import audit_files
from harness.errors import WorkerError
from harness.probe.weights_in_use import InUse, moves_weights, weights_in_use
from harness.records import Evidence
from harness.verdict.comparison import Comparison
from harness.workers.client import RemoteError


def audit_beneath(c: Comparison) -> None:
    """Put the audits of a pair before its own evidence, because they name a cause.

    Needs both pipelines as they were opened; asks a candidate that moves its weights for those that it
    uses. Decides whether these are the loaded ones; explains weights that differ by their files.
    """
    candidate = c.as_run[1]
    used = _in_use(c) if moves_weights(candidate) else InUse([])
    files = audit_files(c.case, (c.as_run[0].variant, candidate.variant), c.pipelines)
    c.evidence = [*files.evidence, *used.evidence, *c.evidence]
    c.findings = [*files.findings, *c.findings]
    c.places |= used.places


def _in_use(c: Comparison) -> InUse:
    try:
        return weights_in_use(c.prober, c.case, c.as_run[1], c.settings.probe_seeds[0])
    except (RemoteError, WorkerError) as error:
        said = f"weights could not be hashed in use: {error}"
        check = "exact.weights_in_use"
        return InUse([Evidence(stage="exact", check=check, outcome="unscored", detail=said)])
