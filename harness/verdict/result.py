"""What is known of a pair, scored, decided and put into words: its `PairResult`. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backends.base import Case
from harness.judge.causes import causes, obscured, summarise
from harness.judge.coverage import of_checks, of_pipelines, of_runs
from harness.judge.decide import decide, missing, under_declared
from harness.judge.effect import share_of_unrelated
from harness.judge.equivalence import equivalence
from harness.judge.exact import compare_pipelines, not_finite
from harness.judge.free import Divergence, diverge, free_evidence, seed_distances_between
from harness.judge.known import acts
from harness.judge.parting import parting
from harness.judge.quality import quality_shift
from harness.judge.skipped import SKIPPED
from harness.metrics.readings import VideoReadings, hard_failures
from harness.records import (
    Coverage,
    Effect,
    Evidence,
    Finding,
    PairResult,
    RenderRecord,
    SeedDistances,
    VerdictName,
)
from harness.render.frames import read_frames
from harness.render.kept import read_trace
from harness.store.store import Store
from harness.verdict.comparison import Comparison
from harness.verdict.exact_gate import exact_findings, opened_pipelines, texts_apart
from harness.verdict.scoring import Look, look, stored_distances

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


def judge_pair(
    store: Store, renders: Renders, metrics: Metrics, c: Comparison | None = None
) -> PairResult:
    """Judge one candidate against the reference for one case.

    `c` is its comparison, None where none was made. Raises `StoreError` when what a
    finished render left in the store cannot be read.
    """
    labelled = renders.labelled()
    reference, candidate = renders.reference, renders.candidate
    lost = missing(labelled)
    parts = _Parts()
    if lost is None:
        parts = _compare(store, renders, metrics, c)
        failures = _failures(store, renders, parts.readings)
        verdict, reasons = decide(
            failures,
            parts.distances,
            parts.findings,
            parts.evidence,
            parts.divergence,
            probed=c is not None,
            coverage=parts.coverage,
            across_steps=c is not None and c.across_steps,
            texts_apart=texts_apart(store, reference[0], candidate[0]),
        )
        if parts.effect is not None:
            verdict, reasons = under_declared(verdict, reasons, parts.findings, parts.effect)
    else:
        verdict, reasons = lost
    places = c.places if c is not None else {}
    findings = _findings(verdict, parts.evidence, parts.findings, c)
    remarks = _remarks(verdict, parts.evidence)
    case, names = reference[0].case["name"], (reference[0], candidate[0])
    cost = sum(record.guided_calls for _, record in labelled)
    cost += c.guided_calls if c is not None else 0
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
        cost_locating_calls=c.locating_calls if c is not None else 0,
        summary=summarise(
            case, names[0].variant["name"], names[1].variant["name"], verdict, reasons, findings,
            cost, remarks,
        ),
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
    c: Comparison | None,
    lost: tuple[VerdictName, str] | None,
) -> PairResult:
    """The verdict of a comparison without any render; `names` are reference and candidate.

    `declared` is what both were given because the candidate declares it.
    `lost` is the verdict and its reason where a side could not be opened.
    """
    findings: list[Finding] = []
    coverage: list[Coverage] = []
    failures: list[str] = []
    evidence = c.evidence if c is not None else []
    cost = c.guided_calls if c is not None else 0
    if lost is None:
        if c is not None and c.data is not None:
            sides = (c.data.reference.full, c.data.candidate.full)
            findings = [
                *declared,
                *c.findings,
                *compare_pipelines(sides[0].pipeline, sides[1].pipeline),
            ]
            failures = [
                *not_finite("reference", sides[0].pipeline),
                *not_finite("candidate", sides[1].pipeline),
            ]
            coverage = [
                *of_pipelines(sides[0].pipeline, sides[1].pipeline),
                *c.coverage,
                *of_checks(evidence),
                *([_OFF_IN_STAGES] if c.across_steps else []),
            ]
        verdict, reasons = decide(
            failures, [], findings, evidence, None, probed=c is not None, coverage=coverage
        )
        findings = _findings(verdict, evidence, findings, c)
    else:
        verdict, reasons = lost[0], [lost[1]]
    return PairResult(
        case=case.name, model=case.model, reference=names[0], candidate=names[1],
        verdict=verdict, reasons=reasons, findings=findings, share=list(share), seeds=[],
        distances=[], floor=[], scores={}, floor_scores={}, renders={}, cost_guided_calls=cost,
        summary=summarise(case.name, *names, verdict, reasons, findings, cost), evidence=evidence,
        coverage=coverage,
        blocks=[] if c is None else [d for p in c.places.values() for d in p.scan],
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
    c: Comparison | None,
) -> list[Finding]:
    """What the exact gate found, after the causes where the two differ."""
    if verdict not in ("bug", "broken"):
        return list(exact)
    places = c.places if c is not None else {}
    return [*causes(evidence, exact, places), *exact]


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


def _compare(store: Store, renders: Renders, metrics: Metrics, c: Comparison | None) -> _Parts:
    reference, candidate = renders.reference, renders.candidate
    seen = look(store, reference, renders.compared(), metrics)
    exact = exact_findings(store, reference[0], candidate[0], c)
    findings = [*renders.declared, *exact]
    distances = _distances(store, reference, candidate)
    ensemble = {
        name: _distances(store, reference, records) for name, records in renders.members.items()
    }
    evidence = list(c.evidence) if c is not None else []
    divergence = None
    if distances:
        between = seed_distances_between(
            [read_trace(store, record)["final_latents"] for record in reference]
        )
        divergence = diverge(distances, ensemble, between, c.data if c else None)
        if c is not None and renders.members:
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
        coverage=_coverage(store, renders, c, evidence),
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
    store: Store, renders: Renders, c: Comparison | None, evidence: Sequence[Evidence]
) -> list[Coverage]:
    opened = opened_pipelines(store, renders.reference[0], renders.candidate[0], c)
    counts = {
        a.seed: (min(lengths), max(lengths))
        for a, b in zip(renders.reference, renders.candidate, strict=True)
        if a.frames is not None and b.frames is not None
        for lengths in [(a.frames.frames, b.frames.frames)]
    }
    return [
        *(of_pipelines(*opened) if opened is not None else []),
        *(c.coverage if c is not None else []),
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
    return [stored_distances(store, x, y) for x, y in zip(a, b, strict=True)]


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
