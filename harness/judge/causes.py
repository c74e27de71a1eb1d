"""Name the cause: from checks that differ, and from what the exact gate found, to ranked findings."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import cast, get_args

from harness.judge.blocks import Place
from harness.records import Component, Evidence, Finding

_ORDER = cast("tuple[Component, ...]", get_args(Component))

_REMEDIES: dict[Component, str] = {
    "text": "compare tokenizer, text length, padding and the text encoder's weights and dtype",
    "image_encoder": "compare image preprocessing, VAE encoder, posterior draw and image scaling",
    "schedule": "compare the scheduler's settings: spacing, zero-SNR rescaling, SNR shift, betas",
    "noise": "compare how the initial latents are drawn, scaled and cast",
    "transformer": "run `parity bisect` for the first block, and `parity audit` for the weights",
    "guidance": "compare the guidance scale at each step, and how the two branches are combined",
    "solver": "compare the solver's class, order, prediction type, and its draws at each step",
    "decoder": "compare VAE scaling factor, tiling, caches and the decoder's weights",
    "loop": "compare the sampling loop itself: what it does to latents between the stages",
    "frames": "compare what happens to the frames after decoding",
}

_VELOCITY: tuple[Component, ...] = ("text", "image_encoder", "transformer", "guidance")
"""What a guided velocity is made of."""

_STEP: tuple[Component, ...] = ("schedule", "guidance", "solver")
"""What a solver step is made of."""


def causes(
    evidence: Sequence[Evidence],
    exact: Sequence[Finding],
    places: Mapping[Component, Place],
) -> list[Finding]:
    """A finding for each component whose check differs, in the order of the data flow.

    Checks are teacher-forced, so each stands for itself. A native run that differs where its stage
    agrees points at the loop around the stage. What the exact gate found in that component is the
    likelier cause, and is named in the same finding.
    """
    differing = [e for e in evidence if e.outcome == "differs"]
    staged = {e.component for e in differing if e.stage != "native"}
    found: dict[Component, Finding] = {}
    for item in differing:
        component = _component(item, staged)
        if component is None or component in found:
            continue
        found[component] = _finding(component, item, exact, places.get(component))
    return [found[c] for c in _ORDER if c in found]


def _component(item: Evidence, staged: Container[Component | None]) -> Component | None:
    """The component that a differing check stands for; None where a stage already says it."""
    if item.stage == "free" or item.stage == "statistics":
        return None
    if item.stage != "native":
        return item.component
    name = item.check.rsplit(".", 1)[-1]
    if name in ("frames", "region", "bias"):
        return None if "decoder" in staged else "frames"
    if name == "transformer":
        # The guided velocity of a loop: what it is made of may be to blame.
        return None if any(c in staged for c in _VELOCITY) else "loop"
    if name == "solver":
        return None if any(c in staged for c in _STEP) else "loop"
    return item.component


def _finding(
    component: Component, item: Evidence, exact: Sequence[Finding], place: Place | None
) -> Finding:
    related = [f for f in exact if f.component == component and f.known is None]
    detail = item.detail
    if related:
        detail = "; ".join([*(f.detail for f in related[:3]), detail])
    if item.step is not None:
        detail += f", worst at step {item.step}"
    if place is not None:
        detail += f"; {place.detail}"
    return Finding(
        kind="component",
        name=related[0].name if related else component,
        detail=detail,
        reference=related[0].reference if related else None,
        candidate=related[0].candidate if related else None,
        component=component,
        block=None if place is None else place.module,
        remedy=next((f.remedy for f in related if f.remedy), _REMEDIES[component]),
    )


def summarise(
    case: str,
    reference: str,
    candidate: str,
    verdict: str,
    reasons: Sequence[str],
    findings: Sequence[Finding],
    cost: int,
) -> str:
    """The verdict in one paragraph that can be pasted into an issue."""
    named = [f for f in findings if f.kind == "component"]
    policies = sorted({f.known for f in findings if f.known})
    parts = [f"{case}: {candidate} against {reference} is `{verdict}`."]
    if named:
        parts.append("Cause: " + " ".join(f"[{f.component}] {f.detail}." for f in named))
        parts.append(f"Next: {named[0].remedy}.")
    else:
        parts += list(reasons)
    if policies:
        parts.append(f"Known deliberate differences: {', '.join(policies)}.")
    parts.append(f"Cost: {cost} guided transformer calls.")
    return " ".join(parts)
