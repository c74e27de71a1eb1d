"""Pairs that are one thing twice: a pass then says that it repeats itself, and must say no more."""

from __future__ import annotations

from collections.abc import Sequence

from harness.config.config import CandidateSpec, RunConfig, VariantSpec
from harness.records import PairResult

SENTENCE = (
    "reference and candidate are the same {what}: nothing was compared but repeatability. To compare"
    " two things, change one side"
)


def with_repetition_said(
    config: RunConfig, pairs: Sequence[PairResult], same_object: bool
) -> list[PairResult]:
    """Each pair; where both sides are one thing, its reasons and summary say so first.

    `same_object`: the caller gave one object of its own for both sides.
    """
    candidates = {candidate.name: candidate for candidate in config.candidates}
    return [
        _said(pair, config.reference, candidates[pair.candidate], same_object) for pair in pairs
    ]


def _said(
    pair: PairResult, reference: VariantSpec, candidate: CandidateSpec, same_object: bool
) -> PairResult:
    if not same_object and (candidate.case or _made_of(reference) != _made_of(candidate)):
        return pair
    said = SENTENCE.format(what="object" if same_object else "variant")
    summary = f"{pair.summary} Note: {said}." if pair.summary else ""
    return pair.model_copy(update={"reasons": [said, *pair.reasons], "summary": summary})


def _made_of(spec: VariantSpec) -> dict[str, object]:
    return VariantSpec.model_validate(
        {key: getattr(spec, key) for key in VariantSpec.model_fields}
    ).model_dump(exclude={"name"})
