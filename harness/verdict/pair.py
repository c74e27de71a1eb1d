"""Compare one candidate with the reference locally: every probe of a verdict, or why there is none.

The reference is the one that the candidate is matched with (`harness.verdict.matching`), so whatever
differs here was meant to change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from backends.base import Case
from harness.config.config import JudgeSettings
from harness.errors import WorkerError
from harness.judge.arguments import (
    Seen,
    acting,
    coverage,
    judge_arguments,
    of_question,
    only_here,
)
from harness.judge.blocks import Place, first_non_finite, locate
from harness.judge.distances import same_result
from harness.judge.draws import judge_generators
from harness.judge.from_nothing import doubtful, with_step_noise
from harness.judge.jumps import judge_jumps
from harness.judge.known import known_difference
from harness.judge.local import judge_local, one_stack
from harness.judge.narrow import settle
from harness.judge.native import (
    healthy_velocity,
    in_a_module,
    judge_finite,
    judge_itself,
    judge_native,
    judge_walk,
)
from harness.judge.native_arguments import judge_native_arguments
from harness.judge.schedules import judge_policy
from harness.judge.tables import said_of_tables
from harness.probe.native import (
    ask_itself,
    beyond_the_render,
    probe_links,
    read_trace,
    scan_of_break,
    schedule_used,
    shared_with,
)
from harness.probe.place import in_run, skipped_blocks, solve_from_nothing
from harness.probe.prober import Answers, Array, Prober, Shared, Target
from harness.probe.stages import (
    OTHER_MEMBERS,
    LocalData,
    ProbeSettings,
    predict_in_float64,
    probe_pair,
    reduced_precision,
    scan_as_run,
    scan_pair,
)
from harness.records import Component, Coverage, Evidence, Finding, PipelineRecord, RenderRecord
from harness.render.handed import read_handed
from harness.store.store import Store
from harness.verdict.matching import stage_by_stage
from harness.workers.client import RemoteError

ROLES = ("reference", "candidate")


@dataclass(frozen=True)
class Local:
    """The local comparison. `data` is None where a probe could not be made; the evidence says why.

    `findings` are those of the audits. `shares` are the shares of
    the registered policies in the gap, by id, where they were worked out. Of its `guided_calls`,
    `locating_calls` went into finding the place of a difference already seen. `sides` are the two as
    they were probed. `across_steps`: a step of the native runs depends on the steps before it.
    """

    evidence: list[Evidence]
    findings: list[Finding]
    data: LocalData | None
    guided_calls: int
    places: Mapping[Component, Place] = field(default_factory=dict[Component, Place])
    shares: Mapping[str, float] = field(default_factory=dict[str, float])
    locating_calls: int = 0
    sides: tuple[Target, Target] | None = None
    coverage: Sequence[Coverage] = ()
    across_steps: bool = False

    def preceded_by(self, evidence: Sequence[Evidence]) -> Local:
        """The same with `evidence` at the head of the chain."""
        return replace(self, evidence=[*evidence, *self.evidence])


def equalising(reference: PipelineRecord, candidate: PipelineRecord) -> str | None:
    """The healthy member that gives the reference the candidate's epsilon of the last norm, if any."""
    mine, other = reference.policies["layer_norm_eps"], candidate.policies["layer_norm_eps"]
    if known_difference("layer_norm_eps", mine, other) is None:
        return None  # any other value is nobody's policy
    return f"norm_eps:{other}"


def compare_locally(
    prober: Prober,
    store: Store,
    case: Case,
    reference: Target,
    candidate: Target,
    renders: Sequence[tuple[RenderRecord, RenderRecord]],
    settings: JudgeSettings,
    member: str | None,
) -> Local:
    """Probe the pair and the links of its finished `renders`, (reference, candidate) for each seed.

    `member` equalises a known difference (`equalising`). Stages are asked without what makes a step
    depend on the steps before it; the native runs have it, and their transformer calls are then compared
    run with run (`across_steps`).
    """
    before = prober.fresh_calls
    walks = [
        evidence
        for pair in renders
        for role, record in zip(ROLES, pair, strict=True)
        for evidence in judge_walk(role, record, schedule_used(store, record))
    ]
    across = _across_steps(reference, candidate)
    reference, candidate = (_stage_by_stage(side) for side in (reference, candidate))
    try:
        data, evidence = _look(prober, case, reference, candidate, settings, member)
        walks += _own_schedules(store, data, renders)
        alike = one_stack(data.reference.full, data.candidate.full)
        walks += [e for pair in renders[:1] for e in judge_generators(*pair, alike)]
    except (RemoteError, WorkerError) as error:
        return Local([*walks, _unscored(error)], [], None, prober.fresh_calls - before)
    broken, modules = _breaks(prober, store, case, (reference, candidate), renders)
    handed = [_handed(store, data, pair) for pair in renders]
    # From here on a question that cannot be answered leaves what was already found as it is.
    sides = (reference, candidate)
    judged = prober.fresh_calls
    places = _places(prober, data, sides, evidence) | _overflow(prober, data, candidate) | modules
    locating = prober.fresh_calls - judged
    try:
        links = _links(prober, store, case, sides, renders, data, member, across)
        staged = _stage_arguments(data).evidence()
        given = [e for seen in handed for e in only_here(seen.evidence(), staged)]
        if not across and "transformer" not in places:
            judged = prober.fresh_calls
            links, found = in_run(prober, store, case, candidate, renders, links, given)
            places, locating = places | found, locating + prober.fresh_calls - judged
        skipped = skipped_blocks(store, data, renders)
        if skipped:
            links = [in_a_module(e) for e in links]
        links = [*given, *skipped, *links]
    except (RemoteError, WorkerError) as error:
        links = [_unscored(error)]
    return Local(
        [*walks, *evidence, *broken, *links],  # the stages say why a run broke, where they can
        [],
        data,
        prober.fresh_calls - before,
        places,
        locating_calls=locating,
        sides=sides,
        coverage=[coverage([_stage_arguments(data), *handed])],
        across_steps=across,
    )


def _own_schedules(
    store: Store, data: LocalData, renders: Sequence[tuple[RenderRecord, RenderRecord]]
) -> list[Evidence]:
    """Whether the tables of a pair that shares none lie no further apart than is registered."""
    if not renders or "schedule" in renders[0][1].share:
        return []
    policies = (
        side.full.pipeline.policies["schedule"] for side in (data.reference, data.candidate)
    )
    a, b = (schedule_used(store, record) for record in renders[0])
    if len(a.timesteps) != len(b.timesteps):
        return []  # a declared difference, or one that the walks name
    return judge_policy(a, b, known_difference("schedule", *policies))


def _links(
    prober: Prober,
    store: Store,
    case: Case,
    sides: tuple[Target, Target],
    renders: Sequence[tuple[RenderRecord, RenderRecord]],
    data: LocalData,
    member: str | None,
    across_steps: bool,
) -> list[Evidence]:
    """The links of the finished renders: whole ones of the first and the last seed, whose process had
    made the others before; of those between, where any bit differs, what takes no guided call.

    `across_steps`: no stage asked alone gives a run's velocities, so these are not asked for."""
    found: list[Evidence] = []
    for at, pair in enumerate(renders):
        outer = at in (0, len(renders) - 1)
        if not outer and same_result(*pair):
            continue
        for role, record in zip(ROLES, pair, strict=True):
            if role == "reference" and not (outer and _measured(*sides)):
                continue  # run in a precision that no probe was made in
            used = "plain" if role == "reference" or member is None else member
            guided = outer and not across_steps
            links = probe_links(prober, store, case, sides[0], record, role, used, guided)
            found += judge_native(links, data)
            if role == "candidate":
                itself = ask_itself(prober, store, case, sides[1], record, guided)
                found += judge_itself(links, itself, data)
        a, b = (read_trace(store, record) for record in pair)
        found += judge_jumps(a, b, data.steps, healthy_velocity(data), pair[0].seed)
    return found


def _across_steps(*sides: Target) -> bool:
    return any(stage_by_stage(side.variant) != side.variant for side in sides)


def _stage_by_stage(side: Target) -> Target:
    return replace(side, variant=stage_by_stage(side.variant))


def _stage_arguments(data: LocalData) -> Seen:
    a, b = data.reference.full, data.candidate.full
    return judge_arguments(a, b, data.settings.seeds, one_stack(a, b))


def _handed(store: Store, data: LocalData, pair: tuple[RenderRecord, RenderRecord]) -> Seen:
    """What the two loops handed to their components, against each other."""
    a, b = (read_handed(store, record) for record in pair)
    sides = data.reference.full, data.candidate.full
    roles = [_roles(side, data.settings.seeds[0]) for side in sides]
    return judge_native_arguments(ROLES[1], a, b, (roles[0], roles[1]), one_stack(*sides))


def _roles(side: Answers, seed: int) -> Mapping[str, str]:
    """Which argument of a side's transformer holds what, as its stages were called."""
    calls = [call for call in of_question(side, f"s{seed}") if call.component == "transformer"]
    return calls[0].roles if calls else {}


_ROOTS: Mapping[Component, str] = {
    "text": "text_encoder",
    "transformer": "transformer",
    "decoder": "vae",
}


def _places(
    prober: Prober, data: LocalData, sides: tuple[Target, Target], evidence: Sequence[Evidence]
) -> dict[Component, Place]:
    """The first wrong module of each component that differs in float32."""
    found: dict[Component, Place] = {}
    for item in evidence:
        component = item.component
        if item.outcome != "differs" or item.stage != "collapse":
            continue
        if component is None or component not in _ROOTS:
            continue
        step = data.steps[0] if item.step is None else item.step
        try:
            a, b = scan_pair(prober, data, sides, _ROOTS[component], step)
        except (RemoteError, WorkerError):
            continue  # the difference stands; only its place is unknown
        place = locate(a, b, OTHER_MEMBERS, item.step, one_stack(a, b))
        if place is not None:
            found[component] = place
    return found


def _overflow(prober: Prober, data: LocalData, candidate: Target) -> dict[Component, Place]:
    """Where the transformer first stops being finite at the run's precision, if it does."""
    if data.candidate.reduced is None:
        return {}
    seed, tensors = data.settings.seeds[0], data.candidate.reduced.tensors
    for step in data.steps:
        if np.isfinite(tensors[f"s{seed}.{step}.branches"]).all():
            continue
        try:
            scan = scan_as_run(prober, data, candidate, _ROOTS["transformer"], step)
        except (RemoteError, WorkerError):
            return {}
        place = first_non_finite(scan, step)
        return {} if place is None else {"transformer": place}
    return {}


def compare_equal(
    prober: Prober,
    store: Store,
    case: Case,
    sides: tuple[Target, Target],
    record: RenderRecord,
) -> Local:
    """The short look at a pair whose renders are equal in every bit; see `beyond_the_render`."""
    before = prober.fresh_calls
    sides = (_stage_by_stage(sides[0]), _stage_by_stage(sides[1]))
    try:
        found, latents = beyond_the_render(prober, store, case, sides, record)
    except (RemoteError, WorkerError) as error:
        return Local([_unscored(error)], [], None, prober.fresh_calls - before)
    places: dict[Component, Place] = {}
    if latents is not None and found.step is not None and found.seed is not None:
        at = found.seed, found.step
        places = _broken_module(prober, case, Shared(), sides[1], latents, at)
    return Local([found], [], None, prober.fresh_calls - before, places)


def joined(short: Local, local: Local) -> Local:
    """The local comparison after a short look that differed. What that saw in some calls only, the
    comparison may not meet again, and it stays."""
    kept = [e for e in short.evidence if e.component is not None]
    return replace(
        local,
        evidence=[*kept, *local.evidence],
        guided_calls=short.guided_calls + local.guided_calls,
        places={**local.places, **short.places},
    )


def _broken_module(
    prober: Prober,
    case: Case,
    shared: Shared,
    side: Target,
    latents: Array,
    at: tuple[int, int],
) -> dict[Component, Place]:
    """The module that first makes something not finite in the call at `at` (seed, step), if it does so
    again when asked."""
    try:
        scan = scan_of_break(prober, case, shared, side, latents, at)
    except (RemoteError, WorkerError):
        return {}
    place = first_non_finite(scan, at[1])
    return {} if place is None else {"transformer": place}


def _breaks(
    prober: Prober,
    store: Store,
    case: Case,
    sides: tuple[Target, Target],
    renders: Sequence[tuple[RenderRecord, RenderRecord]],
) -> tuple[list[Evidence], dict[Component, Place]]:
    """Where a finished run first stopped being finite: its seed, step and component, and the module."""
    found: list[Evidence] = []
    places: dict[Component, Place] = {}
    for pair in renders:
        for role, side, record in zip(ROLES, sides, pair, strict=True):
            broken = judge_finite(role, record)
            if broken is None or any(e.check == broken.check for e in found):
                continue
            found.append(broken)
            latents = read_trace(store, record).get(f"step_{broken.step}.in")
            if broken.component == "transformer" and latents is not None:
                at = record.seed, broken.step or 0
                shared = shared_with(store, record)
                places |= _broken_module(prober, case, shared, side, latents, at)
    return found, places


def _unscored(error: Exception) -> Evidence:
    return Evidence(
        stage="collapse",
        check="probe",
        outcome="unscored",
        detail=f"a probe could not be made: {error}",
    )


def _measured(reference: Target, candidate: Target) -> bool:
    """Whether the reference runs in float32, or in the candidate's reduced precision."""
    mine, other = (
        {k: v for k, v in (reduced_precision(side) or {}).items() if v}
        for side in (reference, candidate)
    )
    return not mine or mine == other


def _look(
    prober: Prober,
    case: Case,
    reference: Target,
    candidate: Target,
    settings: JudgeSettings,
    member: str | None,
) -> tuple[LocalData, list[Evidence]]:
    chosen = ProbeSettings(settings.probe_seeds, settings.calibration_seeds)
    data = probe_pair(prober, case, reference, candidate, chosen, member)
    sides = {"reference": (reference, member), "candidate": (candidate, None)}

    def in_float64(role: str, places: Sequence[tuple[int, int]]) -> Answers | str:
        side, equalising = sides[role]
        return predict_in_float64(prober, data, side, places, equalising)

    found, chain = settle(data, judge_local(data), in_float64)
    if doubtful(chain) is not None:
        rested = solve_from_nothing(prober, found, (reference, candidate))
        chain = with_step_noise(found, chain, rested)
    tables = said_of_tables(found.reference.full.pipeline, found.candidate.full.pipeline)
    return found, [*tables, *acting(_stage_arguments(found).evidence(), chain), *chain]
