"""Compare one candidate with the reference locally: every probe of a verdict, or why there is none.

A difference that the user asked for (an option that the two variants set differently) is equalised in a
second look: if the rest then agrees, it is that option, named, and not a bug.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backends.base import Case
from harness.config import JudgeSettings
from harness.errors import WorkerError
from harness.judge.local import judge_local
from harness.judge.native import judge_native
from harness.local_probe import FULL_PRECISION, LocalData, ProbeSettings, probe_pair
from harness.native_probe import probe_links
from harness.prober import Prober, Target
from harness.records import Evidence, Finding, PipelineRecord, RenderRecord
from harness.store import Store
from harness.worker_client import RemoteError

UNDECLARED = frozenset({*FULL_PRECISION, "device", "placement", "attention", "use_stream"})
"""Options that change where and in which precision a model runs, but not what it computes."""


@dataclass(frozen=True)
class Local:
    """The local comparison. `data` is None where a probe could not be made; the evidence says why."""

    evidence: list[Evidence]
    declared: list[Finding]
    data: LocalData | None
    guided_calls: int


def equalising(reference: PipelineRecord, candidate: PipelineRecord) -> str | None:
    """The healthy member that gives the reference the candidate's epsilon of the last norm, if any."""
    mine, other = reference.policies["layer_norm_eps"], candidate.policies["layer_norm_eps"]
    return None if mine == other else f"norm_eps:{other}"


def compare_locally(
    prober: Prober,
    store: Store,
    case: Case,
    reference: Target,
    candidate: Target,
    renders: Sequence[tuple[str, RenderRecord]],
    settings: JudgeSettings,
    member: str | None,
) -> Local:
    """Probe the pair and the links of its finished `renders` (role, record).

    `member` equalises a known difference (`equalising`).
    """
    before = prober.fresh_calls
    try:
        data, evidence = _look(prober, case, reference, candidate, settings, member)
        declared: list[Finding] = []
        if any(e.outcome == "differs" for e in evidence):
            keys = _declared(reference, candidate)
            if keys:
                equal = candidate.at({key: reference.variant.options[key] for key in keys})
                data, evidence = _look(prober, case, reference, equal, settings, member)
                declared = [_finding(key, reference, candidate) for key in keys]
        for role, record in renders:
            if declared and role == "candidate":
                continue  # its own run differs on purpose
            used = "plain" if role == "reference" or member is None else member
            links = probe_links(prober, store, case, reference, record, role, used)
            evidence += judge_native(links, data)
    except (RemoteError, WorkerError) as error:
        failed = Evidence(
            stage="collapse",
            check="probe",
            outcome="unscored",
            detail=f"a probe could not be made: {error}",
        )
        return Local([failed], [], None, prober.fresh_calls - before)
    return Local(evidence, declared, data, prober.fresh_calls - before)


def _look(
    prober: Prober,
    case: Case,
    reference: Target,
    candidate: Target,
    settings: JudgeSettings,
    member: str | None,
) -> tuple[LocalData, list[Evidence]]:
    chosen = ProbeSettings(settings.probe_seeds, settings.calibration_seeds)
    data = probe_pair(prober, case, reference, candidate, chosen, member)
    return data, judge_local(data)


def _declared(reference: Target, candidate: Target) -> list[str]:
    mine, other = reference.variant.options, candidate.variant.options
    return [k for k in other if k in mine and mine[k] != other[k] and k not in UNDECLARED]


def _finding(key: str, reference: Target, candidate: Target) -> Finding:
    mine: Any = reference.variant.options[key]
    other: Any = candidate.variant.options[key]
    return Finding(
        kind="policy",
        name=f"options.{key}",
        detail=f"the candidate sets {key}={other!r}, the reference {mine!r}; with that equal, the two"
        " agree",
        reference=mine,
        candidate=other,
        known=f"declared:{key}",
    )
