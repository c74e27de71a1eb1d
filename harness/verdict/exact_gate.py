"""The exact gate of a pair: what its two opened pipelines and their own inputs differ in."""

from __future__ import annotations

from harness.judge.decide import equal_bits
from harness.judge.exact import (
    compare_noise,
    compare_own_inputs,
    compare_pipelines,
    own_texts_apart,
)
from harness.judge.known import known_difference
from harness.judge.limits import UNIT_ROUNDOFF
from harness.records import Finding, PipelineRecord, RenderRecord
from harness.render.kept import own_inputs
from harness.store.store import Store
from harness.verdict.comparison import Comparison
from harness.verdict.scoring import stored_distances

_TEXT_ROUNDS = 8.0
"""Unit roundoffs by which the embeddings of one prompt at two precisions may differ. Measured: 1.2 to
2.3 of bfloat16's in the micro models, whose T5 has two blocks. One of 24 makes some 3.5 times that."""


def exact_findings(
    store: Store, reference: RenderRecord, candidate: RenderRecord, c: Comparison | None = None
) -> list[Finding]:
    """What the exact gate finds between two finished renders; empty where one is not finished.

    With a comparison the pipelines are compared as they were opened for it, at equal
    precision, so that a dtype which the user chose is no finding.
    """
    opened = opened_pipelines(store, reference, candidate, c)
    if opened is None:
        return []
    a, b = opened
    known = {
        policy: row
        for policy, value in a.policies.items()
        if (row := known_difference(policy, value, b.policies.get(policy))) is not None
    }
    named = c.findings if c is not None else []
    told = {finding.name for finding in named}
    mine, other = own_inputs(store, reference), own_inputs(store, candidate)
    own = compare_own_inputs(mine, other, candidate.share, known)
    found = [
        *named,
        *(finding for finding in compare_pipelines(a, b) if finding.name not in told),
        *_beyond_rounding(store, (reference, candidate), c, own, own_texts_apart(mine, other)),
        *compare_noise(
            reference, candidate, a.policies["guidance_target"] == b.policies["guidance_target"]
        ),
    ]
    shares = c.shares if c is not None else {}
    return [f.model_copy(update={"share": shares.get(f.known or "")}) for f in found]


def texts_apart(store: Store, reference: RenderRecord, candidate: RenderRecord) -> float | None:
    """`own_texts_apart` of two finished renders."""
    return own_texts_apart(own_inputs(store, reference), own_inputs(store, candidate))


def _beyond_rounding(
    store: Store,
    records: tuple[RenderRecord, RenderRecord],
    c: Comparison | None,
    findings: list[Finding],
    apart: float | None,
) -> list[Finding]:
    """`findings` without text embeddings that differ by what the two sides' precision explains; they lie
    `apart` (`own_texts_apart`)."""
    if c is None or not any(f.kind == "text" for f in findings):
        return findings
    coarsest = _coarsest(store, *records)
    return [f for f in findings if not _rounds(f, c, apart or 0.0, coarsest)]


def _rounds(finding: Finding, c: Comparison, apart: float, coarsest: float) -> bool:
    """Whether a text embedding differs by what the precision of its side explains.

    In float32 the two text encoders agree, at the candidate's own precision its error is no larger than
    the reference's, and `apart`, the distance of what the runs used, is of the size that the `coarsest`
    unit roundoff of the two makes.
    """
    if finding.kind != "text" or c.data is None:
        return False
    checks = {e.check: e for e in c.evidence if e.outcome == "agrees"}
    in_float32 = checks.get(f"collapse.{finding.name}")
    if in_float32 is None:
        return False
    if c.data.reference.reduced is None:
        return apart <= (in_float32.limit or 0.0)
    return "oracle.text" in checks and apart <= _TEXT_ROUNDS * coarsest


def _coarsest(store: Store, *records: RenderRecord) -> float:
    """The largest unit roundoff of the text encoders as the runs had them."""
    keys = [record.pipeline_key for record in records if record.pipeline_key is not None]
    dtypes = [store.pipeline(key).dtypes.get("text_encoder", "") for key in keys]
    return max((UNIT_ROUNDOFF.get(dtype, 0.0) for dtype in dtypes), default=0.0)


def opened_pipelines(
    store: Store, reference: RenderRecord, candidate: RenderRecord, c: Comparison | None
) -> tuple[PipelineRecord, PipelineRecord] | None:
    """Both pipelines, at equal precision where they were probed; None where one was not opened."""
    if c is not None:
        return c.pipelines
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
        or not equal_bits([stored_distances(store, reference, candidate)])
        or texts_apart(store, reference, candidate) is not None
    )
