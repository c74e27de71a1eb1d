"""Name the cause: from checks that differ, and from what the exact gate found, to findings.

They come in the order of the data flow.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import cast, get_args

from harness.judge.arguments import stage_given
from harness.judge.blocks import Place
from harness.judge.skipped import SKIPPED
from harness.records import Component, Evidence, Finding

_ORDER = cast("tuple[Component, ...]", get_args(Component))

_REMEDIES: dict[Component, str] = {
    "text": "compare tokenizer, text length, padding and the text encoder's weights and dtype",
    "image_encoder": "compare image preprocessing, VAE encoder, posterior draw and image scaling",
    "schedule": "compare the scheduler's settings: spacing, zero-SNR rescaling, SNR shift, betas",
    "noise": "compare how the initial latents are drawn, scaled and cast",
    "transformer": "compare that module's code and settings, and its weights unless they are equal",
    "guidance": "compare the guidance scale at each step, and how the two branches are combined",
    "solver": "compare the solver's class, order, prediction type, and its draws at each step",
    "decoder": "compare VAE scaling factor, tiling, caches and the decoder's weights",
    "loop": "compare the sampling loop itself: what it does to latents between the stages",
    "frames": "compare what happens to the frames after decoding",
}

_VELOCITY: tuple[Component, ...] = ("text", "image_encoder", "transformer", "guidance")
"""What a guided velocity is made of."""

_STEP: tuple[Component, ...] = ("schedule", "guidance", "solver", "noise")
"""What a solver step is made of."""

_ITSELF = ".itself."
"""In the name of a check that holds a run against its own stages."""

_FRAMES: tuple[Component, tuple[Component, ...]] = "frames", ("decoder",)

_EXPLAINED: Mapping[str, tuple[Component, tuple[Component, ...]]] = {
    "transformer": ("loop", _VELOCITY),
    "solver": ("loop", _STEP),
    "initial": ("noise", ("image_encoder",)),
    "frames": _FRAMES,
    "region": _FRAMES,
    "bias": _FRAMES,
}
"""Of a native check by its last name: what it stands for where no stage explains it, and which would."""


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
    staged = {e.component for e in differing if e.stage != "native" or _in_a_module(e)}
    argued = [e for e in differing if stage_given(e.check) is not None]
    found: dict[Component, Finding] = {}
    for item in (*(e for e in argued if e.stage != "native"), *differing):
        component = _component(item, staged)
        if component is None or component in found or _given_wrongly(item, argued):
            continue
        if item in argued:
            settings = [f for f in exact if f.component == component and _is_setting(f)]
            found[component] = _argument(component, item, argued, settings)
        else:
            found[component] = _finding(component, item, exact, places.get(component))
    skips = next((e for e in evidence if e.check.endswith(SKIPPED) and e.outcome == "noted"), None)
    if skips is not None and ("transformer" in found or not found):
        found["transformer"] = _with_skipped(found.get("transformer"), skips)
    return [found[c] for c in _ORDER if c in found]


def _with_skipped(finding: Finding | None, skips: Evidence) -> Finding:
    """What is wrong with the transformer, blocks that only one side skips being the likelier cause."""
    known = finding or Finding(
        kind="component", name="transformer", detail="", component="transformer"
    )
    own = known.name == "transformer"
    detail = f"{known.detail}; {skips.detail}" if known.detail else skips.detail
    return known.model_copy(
        update={
            "name": "skipped blocks" if own else known.name,
            "detail": detail,
            "remedy": _SKIPS if own else known.remedy,
        }
    )


_SKIPS = "compare what skips blocks: a cache, its threshold, and what forgets it between two videos"


def _component(item: Evidence, staged: Container[Component | None]) -> Component | None:
    """The component that a differing check stands for; None where a stage already says it."""
    if item.stage == "free" or item.stage == "statistics":
        return item.component  # of the step at which two runs part; the other checks name none
    explained = _explained(item)
    if explained is None:
        return item.component
    stands_for, parts = explained
    return None if any(c in staged for c in parts) else stands_for


def _in_a_module(item: Evidence) -> bool:
    """Whether a check of a native run says that a module, not the loop, went wrong in that run."""
    return item.component == "transformer" and (
        _ITSELF in item.check or item.check.endswith(".jump")
    )


def _given_wrongly(item: Evidence, argued: Sequence[Evidence]) -> bool:
    """Whether what `item` holds against a component follows from what that was given."""
    if item in argued or item.stage == "order":
        return False
    if item.stage != "native":
        return any(stage_given(e.check) == item.component for e in argued if e.stage != "native")
    return item.check.endswith(".transformer") and any(
        stage_given(e.check) == "transformer" for e in argued
    )


def _is_setting(finding: Finding) -> bool:
    return finding.kind == "config" and finding.known is None


def _argument(
    component: Component, item: Evidence, argued: Sequence[Evidence], settings: Sequence[Finding]
) -> Finding:
    """A wrong argument is its caller's: the finding has its name, and those made there with it.

    `settings` are those of the component in which the exact gate found a difference: what is made of
    another setting is another value, so the finding then has that setting's name.
    """
    names = [e.setting for e in argued if e.component == component and e.setting]
    others = [name for name in dict.fromkeys(names) if name != item.setting]
    also = f"; so do {', '.join(others[:4])}" if others else ""
    if settings:
        return settings[0].model_copy(
            update={
                "kind": "component",
                "detail": "; ".join([*(f.detail for f in settings[:3]), item.detail + also]),
                "remedy": settings[0].remedy or _REMEDIES[component],
            }
        )
    return Finding(
        kind="component",
        name=item.setting or component,
        detail=item.detail + also,
        component=component,
        remedy=f"compare how the pipeline makes {item.setting}; the module that takes it is not to"
        " blame",
    )


def _explained(item: Evidence) -> tuple[Component, tuple[Component, ...]] | None:
    """None for a check that stands for its own component: a run held against its own stages is such a
    check, since what is wrong with these is on both sides of it."""
    if item.stage != "native" or _ITSELF in item.check:
        return None
    told = item.component
    if item.check.endswith(".solver") and told is not None and told != "solver":
        return told, tuple(c for c in _STEP if c != told)  # the steps are right but for that
    return _EXPLAINED.get(item.check.rsplit(".", 1)[-1])


def obscured(evidence: Sequence[Evidence]) -> list[str]:
    """What cannot be told yet: native checks that differ where a stage that differs explains them.

    A second fault around that stage would show in the same check only, unless the run was held against
    its own stages, which is not done for its solver steps.
    """
    told = any(_ITSELF in e.check for e in evidence)
    differing = [e for e in evidence if e.outcome == "differs"]
    staged = {e.component for e in differing if e.stage != "native"}
    behind: dict[Component, list[Component]] = {}
    for item in differing:
        explained = _explained(item)
        if explained is not None and (not told or item.check.endswith(".solver")):
            hidden, parts = explained
            by: list[Component] = [c for c in parts if c in staged]
            if by:
                behind[hidden] = by
    return [
        f"Whether the {hidden} {'are' if hidden == 'frames' else 'is'} at fault, too, shows only once"
        f" the {' and '.join(parts)} {'is' if len(parts) == 1 else 'are'} mended."
        for hidden, parts in behind.items()
    ]


def _finding(
    component: Component, item: Evidence, exact: Sequence[Finding], place: Place | None
) -> Finding:
    related = [f for f in exact if f.component == component and f.known is None]
    set_otherwise = bool(related) and related[0].kind == "config" and item.setting is None
    detail = item.detail
    if related:
        detail = "; ".join([*(f.detail for f in related[:3]), detail])
    if item.step is not None:
        detail += f", worst at step {item.step}"
    if place is not None:
        detail += f"; {place.detail}"
    return Finding(
        kind="component",
        name=item.setting or (related[0].name if related else component),
        detail=detail,
        reference=related[0].reference if related else None,
        candidate=related[0].candidate if related else None,
        component=component,
        block=None if place is None else place.module,
        remedy=next((f.remedy for f in related if f.remedy), None)
        or _advice(component, item)
        or (f"set {related[0].name} as the reference has it" if set_otherwise else None)
        or _REMEDIES[component],
    )


def _advice(component: Component, item: Evidence) -> str | None:
    """What this very check says to do; None where its component's general advice is as good."""
    if OVERFLOWS in item.detail:
        return (
            "run it in bfloat16, whose range is that of float32, or in float32; the code computes the"
            " same in float32"
        )
    if component == "noise" and not item.check.endswith(".initial"):
        return (
            "compare the noise that a step adds: the generator that is handed to `scheduler.step`, the"
            " order and shape of its draws, and what is done to them before they are added"
        )
    if item.setting is not None:
        return f"set {item.setting} as the reference has it"
    if _in_a_module(item):
        return _FIRST_CALL if item.step == 0 else _ONE_CALL
    if component == "loop" and item.check.endswith(".between"):
        return "compare what the loop does to latents between two steps: casts, scaling, callbacks"
    if component == "loop" and item.check.endswith(".transformer") and item.step == 0:
        return _FIRST_CALL
    return None


_ONE_CALL = (
    "compare what that module is at that call of a run: weights that are moved or cast in it, a cache, a"
    " state that another call left"
)
_FIRST_CALL = (
    "compare what is different at the first call: weights that are loaded, moved or cast after it,"
    " compilation, a cache that is still empty"
)


OVERFLOWS = "the dtype cannot hold its values"
"""Ends the detail of a check whose values overflow at the run's precision, and not in float32."""


def summarise(
    case: str,
    reference: str,
    candidate: str,
    verdict: str,
    reasons: Sequence[str],
    findings: Sequence[Finding],
    cost: int,
    remarks: Sequence[str] = (),
) -> str:
    """The verdict in one paragraph that can be pasted into an issue; `remarks` follow the causes."""
    named = [f for f in findings if f.kind == "component"]
    policies = sorted({f.known for f in findings if f.known and f.kind != "hazard"})
    parts = [f"{case}: {candidate} against {reference} is `{verdict}`."]
    if named:
        parts.append("Cause: " + " ".join(f"[{_label(f)}] {f.detail}." for f in named))
        parts += remarks
        parts.append(f"Next: {named[0].remedy}.")
    else:
        parts += [*reasons, *remarks]
    parts += [f"Beware: {f.detail}." for f in findings if f.kind == "hazard"]
    if policies:
        parts.append(f"Known deliberate differences: {', '.join(policies)}.")
    parts.append(f"Cost: {cost} guided transformer calls.")
    return " ".join(parts)


def _label(finding: Finding) -> str:
    share = "" if finding.share is None else f", {finding.share:.0%} of the squared gap"
    setting = "" if finding.name == finding.component else f": {finding.name}"
    return f"{finding.component}{setting}{share}"
