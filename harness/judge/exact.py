"""What must be equal exactly, compared without statistics: each difference becomes a finding.

Two sources: the identities of the opened pipelines, and what each variant itself would have used for
the case (text embeddings, schedule table, latent dtype). A factor that the pair shares is equalised,
so its own value on the candidate's side does not enter the renders and is not a finding.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

import numpy as np

from backends.base import NOT_FINITE, ScheduleTable
from harness.judge import schedules
from harness.judge.draws import judge_generators
from harness.judge.known import KnownDifference, equalised_by_match, known_difference
from harness.judge.measured import OwnInputs
from harness.judge.tables import rounded_tables
from harness.records import Component, Finding, PipelineRecord, RenderRecord

_LISTED = 8


def compare_pipelines(reference: PipelineRecord, candidate: PipelineRecord) -> list[Finding]:
    """Weights, dtypes, configs, and the policies that no match factor equalises.

    Tensors and config keys that only one side has are findings too; a key under `placement.` is
    where a pipeline runs, which is what placements are compared for, and is not. Tables that differ by
    rounding alone are none either (`harness.judge.tables`).
    """
    rounded = {name for name, _ in rounded_tables(reference, candidate)}
    found = _weights(
        *(
            {k: v for k, v in side.weights.items() if k not in rounded}
            for side in (reference, candidate)
        )
    )
    for component in sorted(reference.dtypes.keys() | candidate.dtypes.keys()):
        a, b = reference.dtypes.get(component), candidate.dtypes.get(component)
        if a != b:
            detail = f"{component} holds {b or 'nothing'}; the reference holds {a or 'nothing'}"
            found.append(_finding("dtype", component, detail, a, b))
    for name in sorted(reference.configs.keys() & candidate.configs.keys()):
        a, b = reference.configs[name], candidate.configs[name]
        if a != b and not name.startswith("placement."):
            shown = _apart(name, a, b)
            found.append(_finding("config", name, shown, a, b))
    for policy in sorted(reference.policies.keys() & candidate.policies.keys()):
        a, b = reference.policies[policy], candidate.policies[policy]
        if a != b and not equalised_by_match(policy):
            found.append(_policy(policy, a, b))
    return found


def _apart(name: str, a: Any, b: Any) -> str:
    """What differs in setting `name`, in words; of tables the entries that differ. A single value beside
    a table stands for all of its entries."""
    tables = [cast(Mapping[str, Any], side) for side in (a, b) if isinstance(side, Mapping)]
    keys = sorted({key for table in tables for key in table})
    if not keys:
        return f"{name} is {b!r}; the reference has {a!r}"
    mine, other = (
        cast(Mapping[str, Any], side) if isinstance(side, Mapping) else dict.fromkeys(keys, side)
        for side in (a, b)
    )
    odd = [k for k in keys if mine.get(k) != other.get(k)]
    shown = [f"{k} is {other.get(k)!r}, the reference has {mine.get(k)!r}" for k in odd[:_LISTED]]
    more = f", and {len(odd) - _LISTED} more" if len(odd) > _LISTED else ""
    return f"{name} differs in {len(odd)} of {len(keys)} entries: {', '.join(shown)}{more}"


def not_finite(role: str, pipeline: PipelineRecord) -> list[str]:
    """One sentence where weights of a side hold NaN or infinities, reached by its run or not."""
    names = sorted(k for k, digest in pipeline.weights.items() if digest.startswith(NOT_FINITE))
    if not names:
        return []
    shown = ", ".join(names[:_LISTED]) + (
        f" and {len(names) - _LISTED} more" if names[_LISTED:] else ""
    )
    return [
        f"{role}: {len(names)} of {len(pipeline.weights)} weight tensors are not finite: {shown}. Fetch"
        " or convert the checkpoint again, or train again from the last one that is finite"
    ]


def _component(name: str) -> Component | None:
    """The part of a pipeline that a tensor or a setting belongs to."""
    head, _, rest = name.partition(".")
    if head == "vae":
        return "image_encoder" if rest.startswith(("encoder", "quant")) else "decoder"
    if head == "scheduler":
        return "solver" if rest in ("prediction_type", "class") else "schedule"
    heads: dict[str, Component] = {
        "text_encoder": "text",
        "text": "text",
        "transformer": "transformer",
        "lora": "transformer",
    }
    return heads.get(head)


def _weights(reference: Mapping[str, str], candidate: Mapping[str, str]) -> list[Finding]:
    found: list[Finding] = []
    names = reference.keys() | candidate.keys()
    for part in sorted({str(_component(name)) for name in names}):
        mine, other = (
            {name: v for name, v in side.items() if str(_component(name)) == part}
            for side in (reference, candidate)
        )
        found += _weights_of(mine, other)
    return found


def _weights_of(reference: Mapping[str, str], candidate: Mapping[str, str]) -> list[Finding]:
    found: list[Finding] = []
    groups = {
        "differ in value, shape or dtype": [
            name
            for name in reference.keys() & candidate.keys()
            if reference[name] != candidate[name]
        ],
        "are missing in the candidate": list(reference.keys() - candidate.keys()),
        "are unexpected in the candidate": list(candidate.keys() - reference.keys()),
    }
    for what, names in groups.items():
        if names:
            shown = ", ".join(sorted(names)[:_LISTED])
            more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            detail = f"{len(names)} of {len(reference)} weight tensors {what}: {shown}{more}"
            found.append(_finding("weights", sorted(names)[0], detail, None, None))
    return found


def compare_own_inputs(
    a: OwnInputs,
    b: OwnInputs,
    share: Collection[str],
    known_by_policy: Mapping[str, KnownDifference],
) -> list[Finding]:
    """Text embeddings, schedule and latent dtype that each side makes itself, where not shared.

    `a` is the reference's, `b` the candidate's; `share` names the factors that `b` takes from `a`.
    `known_by_policy` are the registered differences between what the two declare; no other difference
    is a known one.
    """
    found: list[Finding] = []
    texts = (("text", a.text, b.text), ("unconditional", a.negative_text, b.negative_text))
    for factor, x, y in texts:
        if factor in share or (x.shape == y.shape and np.array_equal(x, y)):
            continue
        known = known_by_policy.get(factor)
        gap = "in shape" if x.shape != y.shape else f"by {_relative_l2(x, y):.3g} (relative L2)"
        says = f"; {known.says}" if known else ""
        detail = f"the {factor} embedding of {tuple(y.shape)} differs {gap}{says}"
        found.append(
            Finding(
                kind="policy" if known else "text",
                name=factor,
                detail=detail,
                reference=f"norm {np.linalg.norm(x):.6g}",
                candidate=f"norm {np.linalg.norm(y):.6g}",
                known=known.id if known else None,
                component="text",
            )
        )
    found += _schedule_itself("reference", a.schedule)
    if "schedule" not in share:
        found += _schedule(a.schedule, b.schedule, known_by_policy.get("schedule"))
        found += _schedule_itself("candidate", b.schedule) if b.schedule != a.schedule else []
    if "latent_dtype" not in share and a.latent_dtype != b.latent_dtype:
        found.append(_policy("latent_dtype", a.latent_dtype, b.latent_dtype))
    if "image" not in share and a.image_scale != b.image_scale:
        found.append(_policy("image_scale", a.image_scale, b.image_scale))
    return found


def own_texts_apart(a: OwnInputs, b: OwnInputs) -> float | None:
    """How far the text embeddings lie apart that two sides make themselves, shared or not: relative L2,
    the worse of both prompts, infinite for other shapes. None where they are equal in every bit."""
    pairs = [(a.text, b.text), (a.negative_text, b.negative_text)]
    if all(x.shape == y.shape and np.array_equal(x, y) for x, y in pairs):
        return None
    return max(_relative_l2(x, y) if x.shape == y.shape else np.inf for x, y in pairs)


def _schedule(a: ScheduleTable, b: ScheduleTable, known: KnownDifference | None) -> list[Finding]:
    """How two tables differ; a registered difference holds up to its magnitude, and no further."""
    if a == b:
        return []
    if len(a.timesteps) != len(b.timesteps):
        detail = f"{len(b.timesteps)} timesteps; the reference has {len(a.timesteps)}"
        return [_finding("schedule", "timesteps", detail, len(a.timesteps), len(b.timesteps))]
    moved = sum(x != y for x, y in zip(a.timesteps, b.timesteps, strict=True))
    worst = schedules.apart(a, b)
    detail = f"{moved} of {len(a.timesteps)} timesteps differ, sqrt(alpha_bar) by up to {worst:.3%}"
    if known:
        detail += f"; {known.says}"
        bound = (known.magnitude or 0.0) / len(a.timesteps)
        if worst > bound:
            detail += f"; that explains {bound:.3%}, and not what was found"
            known = None
    return [
        Finding(
            kind="policy" if known else "schedule",
            name="schedule",
            component="schedule",
            detail=detail,
            reference=a.timesteps[:4],
            candidate=b.timesteps[:4],
            known=known.id if known else None,
        )
    ]


def _schedule_itself(role: str, table: ScheduleTable) -> list[Finding]:
    """A side's own table that does not agree with itself: no difference, and never left unsaid."""
    odd = schedules.inconsistent(table)
    if odd is None:
        return []
    detail = f"the {role}'s own schedule does not agree with itself: {odd}"
    return [
        Finding(kind="hazard", name=f"schedule.{role}", component="schedule", detail=detail,
                known="uneven_steps",
                remedy="choose a number of steps that divides the training steps, as 50 divides 1000")
    ]  # fmt: skip


def compare_noise(
    reference: RenderRecord, candidate: RenderRecord, one_stack: bool
) -> list[Finding]:
    """Whether both renders were served the same noise, and asked the same generators for it."""
    found: list[Finding] = []
    a, b = reference.tape_digest, candidate.tape_digest
    if a != b:
        detail = "the two renders drew different noise: other shapes, or another number of draws"
        found.append(_finding("noise", "tape", detail, a, b))
    for asked in judge_generators(reference, candidate, one_stack):
        if asked.outcome == "agrees":
            continue
        known = None if one_stack else "noise_generator"
        found.append(
            Finding(kind="policy" if known else "noise", name="generator", detail=asked.detail,
                    reference=reference.generators, candidate=candidate.generators, known=known,
                    component="noise", remedy="hand the caller's generator to every step that draws")
        )  # fmt: skip
    return found


def _relative_l2(a: Any, b: Any) -> float:
    return float(np.linalg.norm(b - a) / max(np.linalg.norm(a), np.finfo(np.float32).tiny))


def _policy(policy: str, a: Any, b: Any) -> Finding:
    known = known_difference(policy, a, b)
    detail = f"{policy} is {b!r}; the reference has {a!r}" + (f"; {known.says}" if known else "")
    return Finding(
        kind="policy", name=policy, detail=detail, reference=a, candidate=b,
        known=known.id if known else None,
    )  # fmt: skip


def _finding(kind: str, name: str, detail: str, a: Any, b: Any) -> Finding:
    part = _component(name) or ("schedule" if kind == "schedule" else None)
    return Finding(kind=kind, name=name, detail=detail, reference=a, candidate=b, component=part)
