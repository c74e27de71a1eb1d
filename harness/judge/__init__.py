"""Score and judge pairs: reads the store, decides, writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from backends.base import Case
from harness.judge.causes import causes, obscured, summarise
from harness.judge.coverage import of_checks, of_pipelines, of_runs
from harness.judge.decide import decide, equal_bits, missing, under_declared
from harness.judge.distances import compare_traces
from harness.judge.effect import share_of_unrelated
from harness.judge.equivalence import equivalence
from harness.judge.exact import (
    compare_noise,
    compare_own_inputs,
    compare_pipelines,
    not_finite,
    own_texts_apart,
)
from harness.judge.free import Divergence, diverge, free_evidence, seed_distances_between
from harness.judge.known import acts, known_difference
from harness.judge.limits import UNIT_ROUNDOFF
from harness.judge.look import Look, look
from harness.judge.parting import parting
from harness.judge.quality import quality_shift
from harness.judge.skipped import SKIPPED
from harness.metrics.readings import VideoReadings, hard_failures
from harness.probe.native import read_trace
from harness.records import (
    Coverage,
    Effect,
    Evidence,
    Finding,
    PairResult,
    PipelineRecord,
    RenderRecord,
    SeedDistances,
    VerdictName,
)
from harness.render.frames import read_frames
from harness.store.store import Store

if TYPE_CHECKING:
    from harness.verdict.pair import Local

Metrics = Mapping[str, Mapping[str, object]]


PLAIN = "reference as configured"
"""The role of `Renders.plain`."""


@dataclass(frozen=True)
class Renders:
    """The finished renders of one pair for one case, one record a seed and in the same order.

    `rerun` is empty when no floor was asked for; `members` are the healthy members by name. `plain` is
    the reference as it was configured, where `reference` is it under what the candidate declares;
    `declared` names that.
    """

    reference: Sequence[RenderRecord]
    rerun: Sequence[RenderRecord]
    candidate: Sequence[RenderRecord]
    members: Mapping[str, Sequence[RenderRecord]] = field(
        default_factory=dict[str, Sequence[RenderRecord]]
    )
    plain: Sequence[RenderRecord] = ()
    declared: Sequence[Finding] = ()

    def compared(self) -> dict[str, Sequence[RenderRecord]]:
        """Role -> what is compared with the reference; an empty rerun is left out."""
        members = {f"member {name}": records for name, records in self.members.items()}
        rerun = {"rerun": self.rerun} if self.rerun else {}
        plain = {PLAIN: self.plain} if self.plain else {}
        return {**rerun, "candidate": self.candidate, **members, **plain}

    def labelled(self) -> list[tuple[str, RenderRecord]]:
        """(role, record) of every render."""
        roles = {"reference": self.reference, **self.compared()}
        return [(role, record) for role, records in roles.items() for record in records]


_OFF_IN_STAGES = Coverage(
    kind="options that act across steps",
    compared=0,
    total=1,
    missing=["off while stages are asked alone; `parity run` compares two runs that have them"],
)

_TEXT_ROUNDS = 8.0
"""Unit roundoffs by which the embeddings of one prompt at two precisions may differ. Measured: 1.2 to
2.3 of bfloat16's in the micro models, whose T5 has two blocks. One of 24 makes some 3.5 times that."""


def exact_findings(
    store: Store, reference: RenderRecord, candidate: RenderRecord, local: Local | None = None
) -> list[Finding]:
    """What the exact gate finds between two finished renders; empty where one is not finished.

    With a local comparison the pipelines are compared as they were opened for it, at equal
    precision, so that a dtype which the user chose is no finding.
    """
    opened = _opened(store, reference, candidate, local)
    if opened is None:
        return []
    a, b = opened
    known = {
        policy: row
        for policy, value in a.policies.items()
        if (row := known_difference(policy, value, b.policies.get(policy))) is not None
    }
    named = local.findings if local is not None else []
    told = {finding.name for finding in named}
    found = [
        *named,
        *(finding for finding in compare_pipelines(a, b) if finding.name not in told),
        *_beyond_rounding(
            store,
            (reference, candidate),
            local,
            compare_own_inputs(store, reference, candidate, candidate.share, known),
        ),
        *compare_noise(
            reference, candidate, a.policies["guidance_target"] == b.policies["guidance_target"]
        ),
    ]
    shares = local.shares if local is not None else {}
    return [f.model_copy(update={"share": shares.get(f.known or "")}) for f in found]


def _beyond_rounding(
    store: Store,
    records: tuple[RenderRecord, RenderRecord],
    local: Local | None,
    findings: list[Finding],
) -> list[Finding]:
    """`findings` without text embeddings that differ by what the two sides' precision explains."""
    if local is None or not any(f.kind == "text" for f in findings):
        return findings
    apart, coarsest = own_texts_apart(store, *records) or 0.0, _coarsest(store, *records)
    return [f for f in findings if not _rounds(f, local, apart, coarsest)]


def _rounds(finding: Finding, local: Local, apart: float, coarsest: float) -> bool:
    """Whether a text embedding differs by what the precision of its side explains.

    In float32 the two text encoders agree, at the candidate's own precision its error is no larger than
    the reference's, and `apart`, the distance of what the runs used, is of the size that the `coarsest`
    unit roundoff of the two makes.
    """
    if finding.kind != "text" or local.data is None:
        return False
    checks = {e.check: e for e in local.evidence if e.outcome == "agrees"}
    in_float32 = checks.get(f"collapse.{finding.name}")
    if in_float32 is None:
        return False
    if local.data.reference.reduced is None:
        return apart <= (in_float32.limit or 0.0)
    return "oracle.text" in checks and apart <= _TEXT_ROUNDS * coarsest


def _coarsest(store: Store, *records: RenderRecord) -> float:
    """The largest unit roundoff of the text encoders as the runs had them."""
    keys = [record.pipeline_key for record in records if record.pipeline_key is not None]
    dtypes = [store.pipeline(key).dtypes.get("text_encoder", "") for key in keys]
    return max((UNIT_ROUNDOFF.get(dtype, 0.0) for dtype in dtypes), default=0.0)


def _opened(
    store: Store, reference: RenderRecord, candidate: RenderRecord, local: Local | None
) -> tuple[PipelineRecord, PipelineRecord] | None:
    """Both pipelines, at equal precision where they were probed; None where one was not opened."""
    if local is not None and local.data is not None:
        return local.data.reference.full.pipeline, local.data.candidate.full.pipeline
    if reference.pipeline_key is None or candidate.pipeline_key is None:
        return None
    return store.pipeline(reference.pipeline_key), store.pipeline(candidate.pipeline_key)


def needs_probe(store: Store, reference: RenderRecord, candidate: RenderRecord) -> bool:
    """Whether more than equality must be looked at: false where all bits are equal and nothing that
    the two share could hide a difference, or where a side was not rendered."""
    if reference.status != "ok" or candidate.status != "ok":
        return False
    unexplained = [f for f in exact_findings(store, reference, candidate) if f.known is None]
    return (
        bool(unexplained)
        or not equal_bits([compare_traces(store, reference, candidate)])
        or own_texts_apart(store, reference, candidate) is not None
    )


def judge_pair(
    store: Store, renders: Renders, metrics: Metrics, local: Local | None = None
) -> PairResult:
    """Judge one candidate against the reference for one case.

    `local` is the local comparison, None where none was made. Raises `StoreError` when what a
    finished render left in the store cannot be read.
    """
    labelled = renders.labelled()
    reference, candidate = renders.reference, renders.candidate
    lost = missing(labelled)
    parts = _Parts()
    if lost is None:
        parts = _compare(store, renders, metrics, local)
        failures = _failures(store, renders, parts.readings)
        verdict, reasons = decide(
            failures,
            parts.distances,
            parts.findings,
            parts.evidence,
            parts.divergence,
            probed=local is not None,
            coverage=parts.coverage,
            across_steps=local is not None and local.across_steps,
            texts_apart=own_texts_apart(store, reference[0], candidate[0]),
        )
        if parts.effect is not None:
            verdict, reasons = under_declared(verdict, reasons, parts.findings, parts.effect)
    else:
        verdict, reasons = lost
    places = local.places if local is not None else {}
    findings = _findings(verdict, parts.evidence, parts.findings, local)
    remarks = _remarks(verdict, parts.evidence)
    case, names = reference[0].case["name"], (reference[0], candidate[0])
    cost = sum(record.guided_calls for _, record in labelled)
    cost += local.guided_calls if local is not None else 0
    return PairResult(
        case=case,
        model=reference[0].case["model"],
        reference=names[0].variant["name"],
        candidate=names[1].variant["name"],
        verdict=verdict,
        reasons=[*reasons, *remarks],
        findings=findings,
        share=candidate[0].share,
        seeds=[record.seed for record in reference],
        distances=parts.distances,
        floor=parts.floor,
        scores=parts.scores,
        floor_scores=parts.floor_scores,
        ensemble=parts.ensemble,
        ensemble_scores=parts.ensemble_scores,
        quality=parts.quality,
        renders={
            role: {r.seed: r.key for r in records}
            for role, records in (
                ("reference", reference), ("rerun", renders.rerun), ("candidate", candidate),
            )
        },
        cost_guided_calls=cost,
        cost_locating_calls=local.locating_calls if local is not None else 0,
        summary=_summary(case, names, verdict, reasons, findings, cost, remarks),
        evidence=parts.evidence,
        coverage=parts.coverage,
        effect=parts.effect,
        blocks=[distance for place in places.values() for distance in place.scan],
    )  # fmt: skip


def judge_unrendered(
    case: Case,
    names: tuple[str, str],
    share: Sequence[str],
    declared: Sequence[Finding],
    local: Local | None,
    lost: tuple[VerdictName, str] | None,
) -> PairResult:
    """The verdict of a local comparison without any render; `names` are reference and candidate.

    `declared` is what both were given because the candidate declares it.
    `lost` is the verdict and its reason where a side could not be opened.
    """
    findings: list[Finding] = []
    coverage: list[Coverage] = []
    failures: list[str] = []
    evidence = local.evidence if local is not None else []
    cost = local.guided_calls if local is not None else 0
    if lost is None:
        if local is not None and local.data is not None:
            sides = (local.data.reference.full, local.data.candidate.full)
            findings = [
                *declared,
                *local.findings,
                *compare_pipelines(sides[0].pipeline, sides[1].pipeline),
            ]
            failures = [
                *not_finite("reference", sides[0].pipeline),
                *not_finite("candidate", sides[1].pipeline),
            ]
            coverage = [
                *of_pipelines(sides[0].pipeline, sides[1].pipeline),
                *local.coverage,
                *of_checks(evidence),
                *([_OFF_IN_STAGES] if local.across_steps else []),
            ]
        verdict, reasons = decide(
            failures, [], findings, evidence, None, probed=local is not None, coverage=coverage
        )
        findings = _findings(verdict, evidence, findings, local)
    else:
        verdict, reasons = lost[0], [lost[1]]
    return PairResult(
        case=case.name, model=case.model, reference=names[0], candidate=names[1],
        verdict=verdict, reasons=reasons, findings=findings, share=list(share), seeds=[],
        distances=[], floor=[], scores={}, floor_scores={}, renders={}, cost_guided_calls=cost,
        summary=summarise(case.name, *names, verdict, reasons, findings, cost), evidence=evidence,
        coverage=coverage,
        blocks=[] if local is None else [d for p in local.places.values() for d in p.scan],
    )  # fmt: skip


def _remarks(verdict: VerdictName, evidence: Sequence[Evidence]) -> list[str]:
    """What a defect hides, or what may be behind a difference that no check names."""
    if verdict in ("bug", "broken"):
        return obscured(evidence)
    noted = [e.detail for e in evidence if e.check.endswith(SKIPPED)]
    return [f"{detail[:1].upper()}{detail[1:]}." for detail in noted if verdict == "inconclusive"]


def _findings(
    verdict: VerdictName,
    evidence: Sequence[Evidence],
    exact: Sequence[Finding],
    local: Local | None,
) -> list[Finding]:
    """What the exact gate found, after the causes where the two differ."""
    if verdict not in ("bug", "broken"):
        return list(exact)
    places = local.places if local is not None else {}
    return [*causes(evidence, exact, places), *exact]


def _summary(
    case: str,
    sides: tuple[RenderRecord, RenderRecord],
    verdict: VerdictName,
    reasons: Sequence[str],
    findings: Sequence[Finding],
    cost: int,
    remarks: Sequence[str],
) -> str:
    a, b = (record.variant["name"] for record in sides)
    return summarise(case, a, b, verdict, reasons, findings, cost, remarks)


@dataclass(frozen=True)
class _Parts:
    """What a pair amounts to before it is decided."""

    findings: list[Finding] = field(default_factory=list[Finding])
    distances: list[SeedDistances] = field(default_factory=list[SeedDistances])
    floor: list[SeedDistances] = field(default_factory=list[SeedDistances])
    scores: dict[str, list[dict[str, Any]]] = field(default_factory=dict[str, Any])
    floor_scores: dict[str, list[dict[str, Any]]] = field(default_factory=dict[str, Any])
    ensemble: dict[str, list[SeedDistances]] = field(default_factory=dict[str, Any])
    ensemble_scores: dict[str, dict[str, list[dict[str, Any]]]] = field(
        default_factory=dict[str, Any]
    )
    quality: list[str] = field(default_factory=list[str])
    readings: dict[str, list[VideoReadings]] = field(default_factory=dict[str, list[VideoReadings]])
    evidence: list[Evidence] = field(default_factory=list[Evidence])
    divergence: Divergence | None = None
    coverage: list[Coverage] = field(default_factory=list[Coverage])
    effect: Effect | None = None


def _compare(store: Store, renders: Renders, metrics: Metrics, local: Local | None) -> _Parts:
    reference, candidate = renders.reference, renders.candidate
    seen = look(store, reference, renders.compared(), metrics)
    exact = exact_findings(store, reference[0], candidate[0], local)
    findings = [*renders.declared, *exact]
    distances = _distances(store, reference, candidate)
    ensemble = {
        name: _distances(store, reference, records) for name, records in renders.members.items()
    }
    evidence = list(local.evidence) if local is not None else []
    divergence = None
    if distances:
        between = seed_distances_between(
            [read_trace(store, record)["final_latents"] for record in reference]
        )
        divergence = diverge(distances, ensemble, between, local.data if local else None)
        if local is not None and renders.members:
            apart = any(acts(finding) for finding in findings)
            free = free_evidence(divergence, same_inputs=not apart)
            nowhere = not any(e.outcome == "differs" and e.component for e in evidence)
            evidence += free
            if nowhere and free and free[0].outcome == "differs":
                evidence += _parting(store, renders, divergence)
            if not apart:
                evidence.append(equivalence(seen.readings["reference"], seen.readings["candidate"]))
    return _Parts(
        findings=findings,
        distances=distances,
        floor=_distances(store, reference, renders.rerun) if renders.rerun else [],
        scores=seen.scores["candidate"],
        floor_scores=seen.scores.get("rerun", {}),
        ensemble=ensemble,
        ensemble_scores={name: seen.scores[f"member {name}"] for name in renders.members},
        quality=quality_shift(seen.readings["reference"], seen.readings["candidate"]),
        readings=seen.readings,
        evidence=evidence,
        divergence=divergence,
        coverage=_coverage(store, renders, local, evidence),
        effect=_effect(store, renders, seen) if renders.plain else None,
    )


def _parting(store: Store, renders: Renders, divergence: Divergence) -> list[Evidence]:
    """Where the seed that ran furthest beyond its budget parts from the reference."""
    budgets = divergence.budgets
    worst = max(range(len(budgets)), key=lambda i: divergence.candidate[i] / (budgets[i] or 1e-300))
    records = renders.reference[worst], renders.candidate[worst]
    traces = (read_trace(store, record) for record in records)
    found = parting(*traces, limit=budgets[worst], seed=records[0].seed)
    return [] if found is None else [found]


def _coverage(
    store: Store, renders: Renders, local: Local | None, evidence: Sequence[Evidence]
) -> list[Coverage]:
    opened = _opened(store, renders.reference[0], renders.candidate[0], local)
    counts = {
        a.seed: (min(lengths), max(lengths))
        for a, b in zip(renders.reference, renders.candidate, strict=True)
        if a.frames is not None and b.frames is not None
        for lengths in [(a.frames.frames, b.frames.frames)]
    }
    return [
        *(of_pipelines(*opened) if opened is not None else []),
        *(local.coverage if local is not None else []),
        *of_checks(evidence),
        *of_runs(counts),
    ]


def _effect(store: Store, renders: Renders, seen: Look) -> Effect:
    plain, under = (
        [read_frames(store.render_folder(r.key) / "frames.mkv") for r in records]
        for records in (renders.plain, renders.reference)
    )
    return Effect(
        plain=renders.plain[0].variant["name"],
        declared=[f"{f.name.partition('.')[2]}={f.candidate}" for f in renders.declared],
        distances=_distances(store, renders.plain, renders.reference),
        share=share_of_unrelated(plain, under),
        quality=quality_shift(seen.readings[PLAIN], seen.readings["reference"]),
    )


def _distances(
    store: Store, a: Sequence[RenderRecord], b: Sequence[RenderRecord]
) -> list[SeedDistances]:
    return [compare_traces(store, x, y) for x, y in zip(a, b, strict=True)]


def _failures(
    store: Store, renders: Renders, readings: Mapping[str, Sequence[VideoReadings]]
) -> list[str]:
    firsts = {"reference": renders.reference[0], "candidate": renders.candidate[0]}
    weights = [
        text
        for role, record in firsts.items()
        if record.pipeline_key is not None
        for text in not_finite(role, store.pipeline(record.pipeline_key))
    ]
    return weights + [
        text
        for role, records in {"reference": renders.reference, **renders.compared()}.items()
        for record, seen in zip(records, readings[role], strict=True)
        for text in _failures_of(role, record, seen)
    ]


def _failures_of(role: str, record: RenderRecord, seen: VideoReadings) -> list[str]:
    found = [f"{role}, seed {record.seed}: {text}" for text in hard_failures(seen)]
    came, asked = record.frames, (record.case["height"], record.case["width"])
    if came is not None and (came.height, came.width) != asked:
        found.append(
            f"{role}, seed {record.seed}: frames of {came.height}x{came.width} px where"
            f" {asked[0]}x{asked[1]} were asked for"
        )
    steps = [s for s in record.steps if not (s.velocity_finite and s.latents_finite)]
    if steps:
        found.insert(
            0,
            f"{role}, seed {record.seed}: not finite from step {steps[0].step} on"
            f" (timestep {steps[0].timestep})",
        )
    elif record.frames is not None and record.frames.non_finite:
        found.insert(
            0,
            f"{role}, seed {record.seed}: {record.frames.non_finite} decoded values are not finite"
            " although the latents are; the decoder made them",
        )
    return found
