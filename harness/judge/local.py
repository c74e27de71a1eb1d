"""The local verdict: up-cast collapse and oracle ratio, teacher-forced, stage by stage.

Same mathematics: in float32 the two sides differ by rounding, which the healthy members measure. Other
mathematics: they differ by more, whatever the precision of the run. Then, at the run's own precision,
how far the candidate is from a float32 oracle, in units of how far the reference is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median

import numpy as np
from numpy.typing import NDArray

from backends.base import ScheduleTable
from harness.judge import schedules
from harness.judge.known import known_difference
from harness.judge.limits import COLLAPSE_FACTOR, UNIT_ROUNDOFF, Limit, limit, relative
from harness.judge.measured import OTHER_MEMBERS, TRANSFORMER_MEMBERS, Answers, LocalData
from harness.judge.steps import SOLVER_LIMIT, judge_guidance, judge_solver, solver_gaps
from harness.records import Component, Evidence

Array = NDArray[np.float32]

LEAST_RATIO = 1.25
"""An oracle ratio up to this is never held against a candidate."""

ORACLE_FACTOR = 1.25
"""How far past the largest healthy oracle ratio a candidate may lie. Measured on the micro models in
bfloat16, 57 healthy transformers lie at 1.14 at most and their members at 1.45, so that an error twice
as large as it should be is called without a render."""

STACKS_FACTOR = 1.8
"""How much further the decoders of two stacks: they cast at different places. Measured, SAT's bfloat16
decoder has 0.53 to 0.69 of Diffusers' error, so Diffusers has up to 1.9 of SAT's."""


def judge_local(data: LocalData) -> list[Evidence]:
    """The chain of local evidence, text first, in the order of the data flow."""
    return [
        *_collapse(data),
        *_order(data),
        *_oracle(data),
    ]


def _collapse(data: LocalData) -> Iterator[Evidence]:
    a, b = data.reference.full, data.candidate.full
    healthy = _member_text(data)
    words = _stage("text", "text embeddings", _text_distance(a, b), healthy)
    yield words
    yield _unconditional(a, b, healthy, encoder_agrees=words.outcome == "agrees")
    yield from _encoded(data)
    yield from _schedules(data)
    yield _initial(data)
    yield _transformer(data)
    yield judge_guidance(data, b, "collapse")
    yield judge_solver(data, a, b, "collapse", SOLVER_LIMIT)
    yield _stage("decoder", "frames", _decode_distance(a, b), _member_decode(data))


def _stage(component: Component, what: str, value: float, healthy: list[float]) -> Evidence:
    return _against(
        "collapse", component, f"{what} in float32, on the same inputs", value, limit(healthy)
    )


def _unconditional(a: Answers, b: Answers, healthy: list[float], encoder_agrees: bool) -> Evidence:
    """The candidate's own unconditional embedding against what its declared policy must give.

    Where the text encoder agrees on other words, it was given another negative prompt.
    """
    policy, came = b.pipeline.policies["unconditional"], b.tensors["own.negative_text"]
    if policy == a.pipeline.policies["unconditional"]:
        what, value = "unconditional embedding", relative(a.tensors["own.negative_text"], came)
    elif policy == "zeros":
        what, value = "unconditional embedding, zeros by policy", float(np.abs(came).max())
    else:
        what = "unconditional embedding, the encoded negative prompt by policy"
        value = relative(a.tensors["text.2.text"], came)
    found = _against("collapse", "text", f"{what}, in float32", value, limit(healthy))
    words = encoder_agrees and policy != "zeros" and found.outcome == "differs"
    setting = "negative_prompt" if words else None
    return found.model_copy(update={"check": "collapse.unconditional", "setting": setting})


def _encoded(data: LocalData) -> Iterator[Evidence]:
    """The latents of a conditioning image or a source clip. An image's, where the two stacks' scales
    differ as they are known to, each in units of its own."""
    a, b = data.reference.full, data.candidate.full
    scales = [side.pipeline.policies.get("image_scale") for side in (a, b)]
    if one_stack(a, b) or known_difference("image_scale", *scales) is None:
        scales = [1.0, 1.0]
    for name, what in (("image", "conditioning image"), ("clip", "source clip")):
        mine, other = a.tensors.get(f"own.{name}"), b.tensors.get(f"own.{name}")
        if mine is None and other is None:
            continue
        value = math.inf
        if mine is not None and other is not None:
            units = scales if name == "image" else [1.0, 1.0]
            value = relative(mine / float(units[0] or 1.0), other / float(units[1] or 1.0))
        healthy = [
            relative(a.tensors[f"plain.own.{name}"], a.tensors[f"{member}.own.{name}"])
            for member in OTHER_MEMBERS
            if f"{member}.own.{name}" in a.tensors
        ]
        yield _stage("image_encoder", f"latents of the {what}", value, healthy)


_STARTS = tuple(f"start.{i}.initial" for i in range(4))
"""Of `start_questions` (`harness.probe.stages`): two seeds, the second again, the first again."""

INITIAL_LIMIT = 1e-6
"""Of initial latents: a cast of the same draw, and where a clip is noised two products and a sum."""


def _initial(data: LocalData) -> Evidence:
    """Initial latents of two seeds, asked in both orders. Where they are a noised clip, the candidate's
    are those of its own clip."""
    a, b = data.reference.full, data.candidate.full
    level = ScheduleTable(**b.facts["own"]["schedule"]).alpha_bar[0]
    values: dict[str, float] = {}
    for name in ("own.initial", *(n for n in _STARTS if n in a.tensors)):
        clip = name.replace(".initial", ".clip")
        mine, other = a.tensors.get(clip), b.tensors.get(clip)
        expected = a.tensors[name].astype(np.float64)
        if mine is not None and other is not None and mine.shape == other.shape == expected.shape:
            expected = expected + math.sqrt(level) * (other.astype(np.float64) - mine)
        values[name] = relative(expected, b.tensors[name])
    worst = max(values, key=lambda name: values[name])
    return Evidence(
        stage="collapse",
        check="collapse.initial",
        component="noise",
        outcome="agrees" if values[worst] <= INITIAL_LIMIT else "differs",
        detail=f"initial latents from the same noise, of two seeds in both orders: {values[worst]:.3g},"
        f" limit {INITIAL_LIMIT:.3g}",
        value=values[worst],
        limit=INITIAL_LIMIT,
        unit="relative L2",
        seed=data.settings.seeds[:2][-1] if worst in _STARTS[1:3] else data.settings.seeds[0],
    )


def one_stack(a: Answers, b: Answers) -> bool:
    """Whether both sides are of one code base; where guidance is applied tells the two apart."""
    return a.pipeline.policies["guidance_target"] == b.pipeline.policies["guidance_target"]


def _schedules(data: LocalData) -> Iterator[Evidence]:
    """Both sides' own tables against what the reference's settings give under each side's policy.

    The reference's comes first, because a shared match hands it to the candidate. What upstream's own
    rule makes of a number of steps is no difference, and is said where it does not agree with itself.
    """
    a, b = data.reference.full, data.candidate.full
    settings = {
        key.removeprefix("scheduler."): value
        for key, value in a.pipeline.configs.items()
        if key.startswith("scheduler.")
    }
    mine, other = (ScheduleTable(**side.facts["own"]["schedule"]) for side in (a, b))
    for role, side, table in (("reference", a, mine), ("candidate", b, other)):
        subset = str(side.pipeline.policies["schedule"]).startswith("pick")
        wanted = schedules.Expected(
            mine.timesteps, *map(np.array, (mine.alpha_bar, mine.alpha_bar_next))
        )
        if known := settings.keys() >= schedules.NEEDED:
            wanted = schedules.expected(settings, data.case.steps, subset)
        value = schedules.gap(table, wanted.last(len(table.timesteps)))
        why = (
            schedules.explain(table, settings, subset)
            if known and value > schedules.TOLERANCE
            else ""
        )
        yield Evidence(
            stage="exact",
            check="exact.schedule" if role == "candidate" else "exact.schedule.reference",
            component="schedule",
            outcome="agrees" if value <= schedules.TOLERANCE else "differs",
            detail=f"the {role}'s own schedule against the reference's settings: sqrt(alpha_bar) off"
            f" by {value:.3g}, limit {schedules.TOLERANCE:.3g}" + (f"; {why}" if why else ""),
            value=value,
            limit=schedules.TOLERANCE,
            unit="sqrt(alpha_bar)",
        )
    if odd := schedules.inconsistent(mine):
        yield Evidence(
            stage="exact",
            check="exact.schedule.itself",
            component="schedule",
            outcome="noted",
            detail=f"the reference's own schedule does not agree with itself: {odd}",
        )


def _against(
    stage: str,
    component: Component,
    what: str,
    value: float,
    bound: Limit,
    unit: str = "relative L2",
    step: int | None = None,
    seed: int | None = None,
) -> Evidence:
    """Hold a value against a limit; without enough members it stays unscored."""
    outcome = "agrees" if value <= bound.value else "differs"
    detail = f"{what}: {value:.3g}, limit {bound.value:.3g}"
    if not bound.enough:
        outcome, detail = "unscored", f"{detail}; too few healthy members to set a limit"
    return Evidence(
        stage=stage,
        check=f"{stage}.{component}",
        component=component,
        outcome=outcome,
        detail=detail,
        value=value,
        limit=bound.value,
        unit=unit,
        healthy=bound.healthy,
        step=step,
        seed=seed,
    )


def _text_distance(a: Answers, b: Answers, prefix: str = "") -> float:
    pairs = [(f"text.{i}.text", f"{prefix}text.{i}.text") for i in range(3)]
    if not prefix:
        pairs.append(("own.text", "own.text"))
    return max(relative(a.tensors[x], b.tensors[y]) for x, y in pairs)


def _member_text(data: LocalData) -> list[float]:
    a = data.reference.full
    return [_text_distance(a, a, f"{member}.") for member in OTHER_MEMBERS]


def _decode_distance(a: Answers, b: Answers) -> float:
    names = [f"decode.{i}.frames" for i in range(2) if f"decode.{i}.frames" in a.tensors]
    return max(relative(a.tensors[name], b.tensors[name]) for name in names)


def _member_decode(data: LocalData) -> list[float]:
    tensors = data.reference.full.tensors
    plain = tensors["plain.decode.0.frames"]
    return [relative(plain, tensors[f"{member}.decode.0.frames"]) for member in OTHER_MEMBERS]


def branch_distance(a: Answers, b: Answers, question: str, other: str, step: int) -> float:
    """The larger relative distance of the two guidance branches at one step."""
    x, y = a.tensors[f"{question}.{step}.branches"], b.tensors[f"{other}.{step}.branches"]
    if x.shape != y.shape:
        return math.inf
    return max(relative(p, q) for p, q in zip(x, y, strict=True))


def transformer_limits(data: LocalData) -> dict[int, Limit]:
    """By step, how far float32 outputs of the transformer may lie apart on the same inputs."""
    a = data.reference.full
    return {step: limit(_member_branches(data, a, a, step)) for step in data.steps}


def _transformer(data: LocalData) -> Evidence:
    """The worst step and seed, each step held against what its own healthy members do."""
    a, b = data.reference.full, data.candidate.full
    mine = "s" if data.equalised is None else "eq.s"
    worst: Evidence | None = None
    for step, bound in transformer_limits(data).items():
        for seed in data.settings.seeds:
            value = branch_distance(a, b, f"{mine}{seed}", f"s{seed}", step)
            found = _against(
                "collapse", "transformer", "transformer output in float32, on the same inputs",
                value, bound, step=step, seed=seed,
            )  # fmt: skip
            if worst is None or _excess(found) > _excess(worst):
                worst = found
    if worst is None:
        raise ValueError("a probe needs at least one step and one seed")
    return worst


def _excess(evidence: Evidence) -> float:
    if evidence.value is None or not evidence.limit:
        return math.inf
    return evidence.value / evidence.limit


def _member_branches(data: LocalData, oracle: Answers, by: Answers, step: int) -> list[float]:
    return [
        max(
            branch_distance(oracle, by, f"s{seed}", f"{member}.s{seed}", step)
            for seed in data.settings.calibration_seeds
        )
        for member in TRANSFORMER_MEMBERS
    ]


_Repeats = tuple[Component, str, str]

_REPEATED: tuple[_Repeats, ...] = (
    ("text", "text.0.text", "text_again.0.text"),
    ("decoder", "decode.0.frames", "decode.2.frames"),
)
"""Of both sides: a component, what it answered first, and again after other work."""


def _order(data: LocalData) -> Iterator[Evidence]:
    """What was computed first must come out again after other work in between, as nearly as the
    reference's own does: to the bit where that repeats itself to the bit."""
    seed, step = data.settings.seeds[0], data.steps[0]
    a = data.reference.full
    branches = f"s{seed}.{step}.branches"
    healthy: dict[Component, list[float]] = {
        "text": _member_text(data),
        "transformer": transformer_limits(data)[step].healthy,
        "decoder": _member_decode(data),
    }
    floors: dict[Component, list[float]] = {
        component: [_repeat(a, first, second)] for component, first, second in _REPEATED
    }
    floors["text"] += [_repeat(a, f"text.{i}.text", f"plain.text.{i}.text") for i in range(3)]
    floors["transformer"] = [
        _repeat(a, f"s{s}.{k}.branches", f"plain.s{s}.{k}.branches")
        for s in data.settings.calibration_seeds
        for k in data.steps
    ]
    asked: tuple[_Repeats, ...] = (
        *_REPEATED,
        ("transformer", branches, f"again.{branches}"),
    )
    for component, first, second in asked:
        value = _repeat(data.candidate.full, first, second)
        yield _repeats(component, value, floors[component], limit(healthy[component]))
    yield from _noise_order(data)


def _noise_order(data: LocalData) -> Iterator[Evidence]:
    """The initial latents of a seed do not depend on which seed was asked before."""
    if _STARTS[0] not in data.candidate.full.tensors:
        return
    pairs = ("own.initial", _STARTS[0]), (_STARTS[0], _STARTS[3]), (_STARTS[1], _STARTS[2])
    floor, values = (
        [_repeat(side.full, first, second) for first, second in pairs]
        for side in (data.reference, data.candidate)
    )
    yield _repeats("noise", max(values), floor, Limit(0.0, [], False))


def _repeat(answers: Answers, first: str, second: str) -> float:
    """How far a side's second answer lies from its first; 0 where all is equal, what is not finite
    included: that is judged where it is compared with the other side."""
    x, y = answers.tensors[first], answers.tensors[second]
    return 0.0 if np.array_equal(x, y, equal_nan=True) else relative(x, y)


def _repeats(component: Component, value: float, floor: list[float], rounding: Limit) -> Evidence:
    """A candidate asked twice. Within what the reference itself varies by it agrees. Beside a reference
    that repeats itself it is noted where it varies as rounding does, since an order of summation that is
    not fixed varies like that; a state that changes the answer by more differs."""
    bound = COLLAPSE_FACTOR * max(floor)
    told = f"answers differently by {value:.3g}"
    if value <= bound:
        outcome = "agrees"
        told = "answers the same" if value == 0 else f"{told}; the reference's own varies as much"
    elif value <= rounding.value and rounding.enough:
        outcome, bound = "noted", rounding.value
        told += ", which is rounding: its kernels do not repeat themselves to the bit"
    else:
        outcome, bound = "differs", max(bound, rounding.value if max(floor) > 0 else 0.0)
        told += (
            ": it keeps state" if math.isfinite(value) else ": finite once and not the other time"
        )
    return Evidence(
        stage="order",
        check=f"order.{component}",
        component=component,
        outcome=outcome,
        detail=f"the {component} asked twice, with other work in between, {told}",
        value=value,
        limit=bound,
        unit="relative L2",
        healthy=floor,
    )


def _ratio(oracle: Array, reference: Array, candidate: Array) -> float:
    """rho = |B - O| / max(|A - O|, u/4 |O|), with the u of the finest reduced precision."""
    if not np.isfinite(candidate).all() or candidate.shape != oracle.shape:
        return math.inf
    o = oracle.astype(np.float64)
    least = UNIT_ROUNDOFF["float16"] / 4 * np.linalg.norm(o)
    return float(
        np.linalg.norm(candidate - o) / max(float(np.linalg.norm(reference - o)), float(least))
    )


def _oracle(data: LocalData) -> Iterator[Evidence]:
    o, a, b = data.reference.full, data.reference.reduced, data.candidate.reduced
    if a is None or b is None:
        return
    yield judge_guidance(data, b, "oracle")
    healthy = max(max(solver_gaps(o, a, s)) for s in data.settings.seeds[:2])
    yield judge_solver(data, o, b, "oracle", max(SOLVER_LIMIT, 2 * healthy))
    for component, names, calibration, members in _oracle_points(data):
        ratios = [
            median(_ratio(o.tensors[n], a.tensors[n], b.tensors[n]) for n in group)
            for group in names
        ]
        healthy = [
            max(
                _ratio(
                    o.tensors[n] if component == "transformer" else o.tensors[f"plain.{n}"],
                    a.tensors[f"plain.{n}"],
                    a.tensors[f"{m}.{n}"],
                )
                for n in calibration
            )
            for m in members
        ]
        apart = component == "decoder" and not one_stack(a, b)
        factor = ORACLE_FACTOR * (STACKS_FACTOR if apart else 1)
        bound = limit(healthy, factor, LEAST_RATIO)
        value = max(ratios)
        if not _finite(b, names):
            yield _overflow(data, component, names, ratios)
            continue
        step = data.steps[ratios.index(value)] if component == "transformer" else None
        yield _against(
            "oracle", component,
            "error against a float32 oracle, in units of the reference's own error",
            value, bound, unit="ratio", step=step,
        )  # fmt: skip


def _finite(answers: Answers, names: list[list[str]]) -> bool:
    return all(np.isfinite(answers.tensors[name]).all() for group in names for name in group)


def _overflow(
    data: LocalData, component: Component, names: list[list[str]], ratios: list[float]
) -> Evidence:
    """Not finite at the run's precision although finite in float32: the dtype cannot hold it."""
    at = next((i for i, ratio in enumerate(ratios) if not math.isfinite(ratio)), 0)
    fine = _finite(data.candidate.full, names)
    return Evidence(
        stage="oracle",
        check=f"oracle.{component}",
        component=component,
        outcome="differs",
        detail=f"the {component} is not finite at the run's precision, and is"
        + (" finite in float32: the dtype cannot hold its values" if fine else " not in float32"),
        step=data.steps[at] if component == "transformer" else None,
    )


_Points = tuple[Component, list[list[str]], list[str], tuple[str, ...]]


def _oracle_points(data: LocalData) -> Iterator[_Points]:
    """Component, judged tensors (a group over seeds for each step), the members' tensors, members."""
    seeds, calibration = data.settings.seeds, data.settings.calibration_seeds
    texts = ["text.0.text", "text.1.text"]
    yield "text", [[name] for name in texts], texts, OTHER_MEMBERS
    yield (
        "transformer",
        [[f"s{s}.{k}.branches" for s in seeds] for k in data.steps],
        [f"s{s}.{k}.branches" for s in calibration for k in data.steps],
        TRANSFORMER_MEMBERS,
    )
    yield "decoder", [["crop.0.frames"], ["crop.1.frames"]], ["crop.0.frames"], OTHER_MEMBERS
