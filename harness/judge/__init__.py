"""Score and judge pairs: reads the store, decides, writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from harness.frames import read_frames
from harness.judge.decide import decide, missing
from harness.judge.distances import compare_traces
from harness.judge.exact import compare_noise, compare_own_inputs, compare_pipelines
from harness.metrics import score_pair, to_jsonable
from harness.metrics.readings import hard_failures, read_video
from harness.records import Finding, PairResult, RenderRecord, SeedDistances
from harness.store import Store

Metrics = Mapping[str, Mapping[str, object]]


def judge_pair(
    store: Store,
    reference: Sequence[RenderRecord],
    rerun: Sequence[RenderRecord],
    candidate: Sequence[RenderRecord],
    metrics: Metrics,
) -> PairResult:
    """Judge one candidate against the reference for one case.

    The sequences hold one record a seed, in the same order; `rerun` is empty when no floor was asked
    for. Raises `StoreError` when what a finished render left in the store cannot be read.
    """
    roles = {"reference": reference, "rerun": rerun, "candidate": candidate}
    labelled = [(role, record) for role, records in roles.items() for record in records]
    lost = missing(labelled)
    findings: list[Finding] = []
    distances: list[SeedDistances] = []
    floor: list[SeedDistances] = []
    scores: dict[str, list[dict[str, Any]]] = {}
    floor_scores: dict[str, list[dict[str, Any]]] = {}
    if lost is None:
        findings = _findings(store, reference[0], candidate[0])
        distances = [compare_traces(store, a, b) for a, b in zip(reference, candidate, strict=True)]
        scores = _scores(store, reference, candidate, metrics)
        if rerun:
            floor = [compare_traces(store, a, b) for a, b in zip(reference, rerun, strict=True)]
            floor_scores = _scores(store, reference, rerun, metrics)
        failures = [text for role, record in labelled for text in _failures(store, role, record)]
        verdict, reasons = decide(failures, distances, floor)
    else:
        verdict, reasons = lost
    return PairResult(
        case=reference[0].case["name"],
        model=reference[0].case["model"],
        reference=reference[0].variant["name"],
        candidate=candidate[0].variant["name"],
        verdict=verdict,
        reasons=reasons,
        findings=findings,
        share=candidate[0].share,
        seeds=[record.seed for record in reference],
        distances=distances,
        floor=floor,
        scores=scores,
        floor_scores=floor_scores,
        renders={role: {r.seed: r.key for r in records} for role, records in roles.items()},
        cost_guided_calls=sum(record.guided_calls for _, record in labelled),
    )


def _findings(store: Store, reference: RenderRecord, candidate: RenderRecord) -> list[Finding]:
    pipelines = [store.pipeline(r.pipeline_key) for r in (reference, candidate) if r.pipeline_key]
    return [
        *compare_pipelines(*pipelines),
        *compare_own_inputs(store, reference, candidate, candidate.share),
        *compare_noise(reference, candidate),
    ]


def _pixels(store: Store, record: RenderRecord) -> NDArray[Any]:
    path: Path = store.render_folder(record.key) / "frames.mkv"
    return read_frames(path)


def _scores(
    store: Store, a: Sequence[RenderRecord], b: Sequence[RenderRecord], metrics: Metrics
) -> dict[str, list[dict[str, Any]]]:
    collected: dict[str, list[dict[str, Any]]] = {name: [] for name in metrics}
    for left, right in zip(a, b, strict=True):
        for name, result in score_pair(
            _pixels(store, left), _pixels(store, right), metrics
        ).items():
            collected[name].append(to_jsonable(result))
    return collected


def _failures(store: Store, role: str, record: RenderRecord) -> list[str]:
    found = [f"{role}, seed {record.seed}: {text}" for text in hard_failures(
        read_video(_pixels(store, record)))]  # fmt: skip
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
