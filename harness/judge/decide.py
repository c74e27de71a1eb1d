"""From evidence to a verdict: pure decisions, no I/O, in a fixed order.

    renders missing        error, unsupported, not_run
    hard failures          broken
    equal in every bit     bit_exact, unless something that the pair shares hides a difference:
                           then `rounding`, if it is a text embedding and every check agrees
    a check that differs   bug
    a check unscored       inconclusive
    something not compared inconclusive, and so is a difference that nothing explains
    policies that differ   policy, once everything else agrees with them equalised
    in the healthy band    rounding
    in the error budget    chaotic
    otherwise              bug at 1/alpha, else inconclusive

No step softens an earlier one, and nothing that could not be computed is a pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.judge.coverage import not_compared
from harness.judge.effect import LARGEST_SHARE
from harness.judge.free import Divergence
from harness.judge.known import acts
from harness.judge.limits import FEWEST_MEMBERS
from harness.records import (
    EQUIVALENT,
    Coverage,
    Effect,
    Evidence,
    Finding,
    RenderRecord,
    SeedDistances,
    VerdictName,
)

WIDEST_CHI = 0.5
"""Healthy distance over the distance between seeds, above which single videos are not compared."""


def missing(renders: Sequence[tuple[str, RenderRecord]]) -> tuple[VerdictName, list[str]] | None:
    """The verdict of a pair some of whose renders are not there; (role, record) for each of them.

    Renders that ended with the same words are one reason.
    """
    for status in ("error", "unsupported", "not_run"):
        who: dict[str, list[str]] = {}
        for role, record in renders:
            if record.status == status:
                who.setdefault(record.message or status, []).append(f"{role}, seed {record.seed}")
        if who:
            return status, [f"{'; '.join(places)}: {words}" for words, places in who.items()]
    return None


def equal_bits(distances: Sequence[SeedDistances]) -> bool:
    """Whether latents and frames are equal in every bit at every seed, and there is one."""
    return bool(distances) and all(d.frames_equal and d.latents_equal for d in distances)


def barred(
    findings: Sequence[Finding],
    coverage: Sequence[Coverage],
    distances: Sequence[SeedDistances],
) -> list[str]:
    """Why no agreement of the stages makes this pair a pass; empty where nothing stands against it.

    Weights that differ and that nothing explains come first: a function that agrees on what was asked
    vouches for no weights. Another setting that differs may stand only where no bit of the renders does.
    """
    equal = equal_bits(distances)
    unexplained = [f for f in findings if f.known is None and f.kind != "component"]
    weights = [f.detail for f in unexplained if f.kind == "weights"]
    others = [f.detail for f in unexplained if f.kind != "weights" and not equal]
    return [
        *(f"Nothing explains why {detail}." for detail in (*weights, *others)),
        *not_compared(coverage),
    ]


def decide(
    failures: Sequence[str],
    distances: Sequence[SeedDistances],
    findings: Sequence[Finding],
    evidence: Sequence[Evidence],
    divergence: Divergence | None,
    probed: bool,
    coverage: Sequence[Coverage] = (),
    across_steps: bool = False,
    texts_apart: float | None = None,
) -> tuple[VerdictName, list[str]]:
    """Verdict and reasons.

    `failures` are hard failures found in either side's video, with the side named; `findings` those
    of the exact gate; `evidence` the chain of checks; `probed` whether the local stages ran;
    `divergence` None where nothing was rendered. `coverage` is what was compared. `across_steps`: a
    step depends on the steps before it, so that no teacher-forced error predicts a run's. `texts_apart`
    is how far the text embeddings lie apart that the two make themselves, None where no bit differs.
    """
    if failures:
        return "broken", list(failures)
    if not distances and not probed:
        return "inconclusive", ["Nothing was compared: no seed was rendered on both sides."]
    equal = equal_bits(distances)
    unexplained = [f for f in findings if f.known is None]
    doubtful = any(e.outcome in ("differs", "unscored") for e in evidence)
    bars = barred(findings, coverage, distances)
    if equal and texts_apart is None and not (unexplained or doubtful or bars):
        return "bit_exact", [
            f"Latents and frames are equal in every bit over {_seeds(len(distances))}."
        ]
    differing = [e for e in evidence if e.outcome == "differs"]
    if differing:
        return "bug", [_sentence(e) for e in differing]
    if not probed:
        return "inconclusive", [
            _worst(distances),
            "The two were not probed, because `judge.probe` is off; set it to true.",
        ]
    unscored = [e for e in evidence if e.outcome == "unscored"]
    if unscored:
        return "inconclusive", [_sentence(e) for e in unscored]
    if bars:
        return "inconclusive", bars
    agreed = sum(e.outcome == "agrees" for e in evidence)
    local = f"All {agreed} checks agree, stage by stage on the same inputs."
    policies = list(dict.fromkeys(_policy(f) for f in findings if acts(f)))
    if policies:
        return "policy", [local, f"Registered policies differ: {', '.join(policies)}."]
    if divergence is None:
        return "rounding", [local, "Nothing was rendered: this is the local verdict."]
    if equal and texts_apart is not None:
        told = (
            "Latents and frames are equal in every bit on shared text; the candidate's own text"
            f" embedding differs by {texts_apart:.3g} (relative L2)."
        )
        return ("rounding" if texts_apart < math.inf else "inconclusive"), [told, local]
    if divergence.members < FEWEST_MEMBERS:
        return "inconclusive", [local, "Too few healthy members were rendered to judge the videos."]
    if divergence.in_band:
        return "rounding", [_worst(distances), local, "Healthy members lie as far away."]
    if divergence.in_budget and not across_steps:
        return _amplified(divergence, [_worst(distances), local])
    return "inconclusive", [
        _worst(distances),
        local,
        "The divergence exceeds its error budget; more seeds would decide.",
    ]


def under_declared(
    verdict: VerdictName, reasons: Sequence[str], findings: Sequence[Finding], effect: Effect
) -> tuple[VerdictName, list[str]]:
    """The verdict of a pair that was compared under what the candidate declares, and what that does.

    A pass then is `approximation`, or `policy` where only settings of the case were declared. Whether
    an option that makes another video is acceptable is no question of equivalence: no pass. Nor is it
    one where the option never acted: what it does was not seen.
    """
    named = ", ".join(effect.declared)
    said = [f"Both sides ran with {named}.", *reasons, _by_itself(named, effect)]
    if verdict not in EQUIVALENT:
        return verdict, said
    if effect.share is None or effect.share > LARGEST_SHARE:
        told = f"The two agree, but what {named} makes of the video is for you to judge."
        return "inconclusive", [*said, told]
    approximates = any(f.kind == "approximation" for f in findings)
    if approximates and equal_bits(effect.distances):
        told = (
            f"With and without {named} {effect.plain} gives the same bits: the option never acted here,"
            " so that nothing is known of what it does. Run more steps or a larger video, or leave it"
            " out."
        )
        return "inconclusive", [*said, told]
    return ("approximation" if approximates else "policy"), said


def _by_itself(named: str, effect: Effect) -> str:
    if effect.share is None:
        return f"By itself {named} gives a video of another size or length than {effect.plain}."
    seen = f" ({', '.join(effect.quality)})" if effect.quality else ""
    return (
        f"By itself {named} changes the video by {effect.share:.0%} of what separates two unrelated"
        f" videos, in the worst frame or quarter of one{seen}."
    )


def _amplified(divergence: Divergence, reasons: list[str]) -> tuple[VerdictName, list[str]]:
    """Beyond the band, within the error budget: chaos, unless no two videos could be told apart."""
    if divergence.chi is None:
        told = "One seed does not say how far apart the videos of two seeds lie."
        return "inconclusive", [*reasons, told]
    if divergence.chi > WIDEST_CHI:
        told = (
            f"Healthy members lie {divergence.chi:.2g} times as far apart as two seeds do: with so much"
            " chaos single videos say nothing. Compare fewer steps, or the probes alone."
        )
        return "inconclusive", [*reasons, told]
    told = (
        "That is more than healthy members show, and within what sampling makes of an error of this"
        " size."
    )
    return "chaotic", [*reasons, told]


def _policy(finding: Finding) -> str:
    share = "" if finding.share is None else f" ({finding.share:.0%} of the gap)"
    return f"{finding.known}{share}"


def _sentence(evidence: Evidence) -> str:
    where = [f"step {evidence.step}"] if evidence.step is not None else []
    where += [f"seed {evidence.seed}"] if evidence.seed is not None else []
    return f"{evidence.check}: {evidence.detail}" + (f" ({', '.join(where)})" if where else "")


def _worst(distances: Sequence[SeedDistances]) -> str:
    values = [d.latents_rel_l2 for d in distances]
    worst = max((v for v in values if v is not None), default=None)
    first = min((d.first_step for d in distances if d.first_step is not None), default=None)
    where = "only after the last step" if first is None else f"from step {first} on"
    size = "by an amount that cannot be computed" if worst is None else f"by {worst:.3g}"
    return f"Final latents differ {size} (relative L2, worst of {_seeds(len(distances))}), {where}."


def _seeds(count: int) -> str:
    return f"{count} seed" if count == 1 else f"{count} seeds"
