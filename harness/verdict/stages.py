"""The stages of the procedure, each from what it needs to the evidence that it adds.

They are called in the order of `harness.verdict.procedure`. A stage that asks a pipeline raises
`RemoteError` or `WorkerError` where that cannot answer; what was found before stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

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
from harness.judge.jumps import JUMP, judge_jumps
from harness.judge.known import known_difference
from harness.judge.local import judge_local, one_stack
from harness.judge.measured import OTHER_MEMBERS, Answers, Array, ProbeSettings
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
from harness.judge.skipped import SKIPPED
from harness.judge.tables import said_of_tables
from harness.probe.native import (
    ask_itself,
    beyond_the_render,
    probe_links,
    scan_of_break,
    shared_with,
)
from harness.probe.place import in_run, skipped_blocks, solve_from_nothing
from harness.probe.prober import Shared, Target
from harness.probe.stages import (
    predict_in_float64,
    probe_pair,
    reduced_precision,
    scan_as_run,
    scan_pair,
)
from harness.records import Component, Evidence, RenderRecord
from harness.render.kept import read_handed, read_trace, schedule_used
from harness.verdict.comparison import ROLES, Comparison
from harness.workers.client import RemoteError


def steps_made(c: Comparison) -> None:
    """Needs the renders. Decides whether each loop made the steps of its case at its timesteps."""
    for pair in c.renders:
        for role, record in zip(ROLES, pair, strict=True):
            c.add(judge_walk(role, record, schedule_used(c.store, record)))


def ask_stages(c: Comparison) -> None:
    """Asks every stage of both sides on the same inputs, in float32 and as they run. Decides nothing."""
    chosen = ProbeSettings(c.settings.probe_seeds, c.settings.calibration_seeds)
    c.data = probe_pair(c.prober, c.case, c.reference, c.candidate, chosen, c.equalising)


def own_schedules(c: Comparison) -> None:
    """Needs the renders. Decides whether tables of a pair that shares none lie as far apart as is
    registered, and no further."""
    if not c.renders or "schedule" in c.renders[0][1].share:
        return
    policies = (pipeline.policies["schedule"] for pipeline in c.pipelines)
    a, b = (schedule_used(c.store, record) for record in c.renders[0])
    if len(a.timesteps) == len(b.timesteps):  # else declared, or named by `steps_made`
        c.add(judge_policy(a, b, known_difference("schedule", *policies)))


def generators(c: Comparison) -> None:
    """Needs the first renders. Decides whether both asked the same generators for their noise."""
    data = c.asked()
    alike = one_stack(data.reference.full, data.candidate.full)
    for pair in c.renders[:1]:
        c.add(judge_generators(*pair, alike))


def float32_and_precision(c: Comparison) -> None:
    """Needs the stages' answers; asks again in float64 where one is borderline, and for solver steps
    from zeros where noise and formula are to be told apart. Decides, component by component, whether the
    two compute the same in float32, repeat themselves, and err alike at the precision of the run."""
    data = c.asked()
    sides = {"reference": (c.reference, c.equalising), "candidate": (c.candidate, None)}

    def in_float64(role: str, places: Sequence[tuple[int, int]]) -> Answers | str:
        side, member = sides[role]
        return predict_in_float64(c.prober, data, side, places, member)

    found, chain = settle(data, judge_local(data), in_float64)
    c.data = found
    if doubtful(chain) is not None:
        chain = with_step_noise(found, chain, solve_from_nothing(c.prober, found, c.sides))
    tables = said_of_tables(found.reference.full.pipeline, found.candidate.full.pipeline)
    c.add([*tables, *acting(_stage_arguments(c).evidence(), chain), *chain])


def where_it_breaks(c: Comparison) -> None:
    """Needs the renders; scans the modules of a call that broke. Decides where a run first stopped being
    finite: seed, step and component. Explains with the module."""
    for pair in c.renders:
        for role, side, record in zip(ROLES, c.sides, pair, strict=True):
            broken = judge_finite(role, record)
            if broken is None or any(e.check == broken.check for e in c.evidence):
                continue
            c.add([broken])
            latents = read_trace(c.store, record).get(f"step_{broken.step}.in")
            if broken.component == "transformer" and latents is not None:
                at = record.seed, broken.step or 0
                c.places |= _broken_module(c, shared_with(c.store, record), side, latents, at)


def where_it_differs(c: Comparison) -> None:
    """Needs the chain. Scans the modules of each component that differs in float32, and of a transformer
    that overflows as it runs. Explains with the first wrong module; decides nothing."""
    with c.locating():
        c.places = {**_first_wrong_modules(c), **_overflow(c), **c.places}


def arguments(c: Comparison) -> None:
    """Needs the renders. Decides whether the two loops gave their components the same, by name; says
    only what the stages' own arguments did not show."""
    staged = _stage_arguments(c)
    handed = [_handed(c, pair) for pair in c.renders]
    c.coverage.append(coverage([staged, *handed]))
    c.given = [e for seen in handed for e in only_here(seen.evidence(), staged.evidence())]
    c.add(c.given)


def skipped(c: Comparison) -> None:
    """Needs the renders, or the stages' answers without any. Notes blocks that one side leaves out."""
    c.add(skipped_blocks(c.store, c.asked(), c.renders))


def native_links(c: Comparison) -> None:
    """Needs the renders, `c.given` and `c.places`; asks the reference for the links of the first and the
    last seed (of the others for what takes no guided call), and the candidate for its own.
    Decides whether the loops that users call give what their stages give. Where a velocity is not what
    its own stages give, that run is made again with all modules watched; explains with the module."""
    found = _links(c)
    if not c.across_steps and "transformer" not in c.places:
        with c.locating():
            found, places = in_run(
                c.prober, c.store, c.case, c.candidate, c.renders, found, c.given
            )
            between = _at_an_unprobed_step(c, found) if not places else {}
        c.places |= places | between
        found = [in_a_module(e) for e in found] if between else found
    if any(e.check.endswith(SKIPPED) for e in c.evidence):
        found = [in_a_module(e) for e in found]
    c.add(found)


def _at_an_unprobed_step(c: Comparison, links: Sequence[Evidence]) -> dict[Component, Place]:
    """The first wrong module of a transformer that computes something else in a step between the probed
    ones, by hand as well as in the run; none where the loop made the difference."""
    jump = next((e for e in links if e.outcome == "differs" and e.check.endswith(JUMP)), None)
    if jump is None or jump.step is None:
        return {}
    data = c.asked()
    a, b = scan_pair(c.prober, data, c.sides, _ROOTS["transformer"], jump.step)
    alike = one_stack(data.reference.full, data.candidate.full)
    place = locate(a, b, OTHER_MEMBERS, jump.step, alike)
    return {} if place is None else {"transformer": place}


def _links(c: Comparison) -> list[Evidence]:
    """The links of the finished renders: whole ones of the first and the last seed, whose process had
    made the others before; of those between, where any bit differs, what takes no guided call."""
    found, data = list[Evidence](), c.asked()
    for at, pair in enumerate(c.renders):
        outer = at in (0, len(c.renders) - 1)
        if not outer and same_result(*pair):
            continue
        # No stage asked alone gives the velocities of a run in which steps depend on each other.
        guided = outer and not c.across_steps
        for role, record in zip(ROLES, pair, strict=True):
            if role == "reference" and not (outer and _measured(*c.sides)):
                continue  # run in a precision that no probe was made in
            member = "plain" if role == "reference" or c.equalising is None else c.equalising
            links = probe_links(
                c.prober, c.store, c.case, c.reference, record, role, member, guided
            )
            found += judge_native(links, data)
            if role == "candidate":
                itself = ask_itself(c.prober, c.store, c.case, c.candidate, record, guided)
                found += judge_itself(links, itself, data)
        a, b = (read_trace(c.store, record) for record in pair)
        found += judge_jumps(a, b, data.steps, healthy_velocity(data), pair[0].seed)
    return found


def beyond_equal_renders(c: Comparison) -> None:
    """Needs renders that are equal in every bit; asks both sides what those did not ask: other prompts,
    another video, further calls, the same again. Decides by their bits."""
    record = c.renders[0][0]
    found, latents = beyond_the_render(c.prober, c.store, c.case, c.sides, record)
    c.add([found])
    if latents is not None and found.step is not None and found.seed is not None:
        c.places |= _broken_module(c, Shared(), c.candidate, latents, (found.seed, found.step))


def _stage_arguments(c: Comparison) -> Seen:
    data = c.asked()
    a, b = data.reference.full, data.candidate.full
    return judge_arguments(a, b, data.settings.seeds, one_stack(a, b))


def _handed(c: Comparison, pair: tuple[RenderRecord, RenderRecord]) -> Seen:
    """What the two loops handed to their components, against each other."""
    data = c.asked()
    a, b = (read_handed(c.store, record) for record in pair)
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


def _first_wrong_modules(c: Comparison) -> dict[Component, Place]:
    """The first wrong module of each component that differs in float32."""
    found, data = dict[Component, Place](), c.asked()
    for item in c.evidence:
        component = item.component
        if item.outcome != "differs" or item.stage != "collapse":
            continue
        if component is None or component not in _ROOTS:
            continue
        step = data.steps[0] if item.step is None else item.step
        try:
            a, b = scan_pair(c.prober, data, c.sides, _ROOTS[component], step)
        except (RemoteError, WorkerError):
            continue  # the difference stands; only its place is unknown
        place = locate(a, b, OTHER_MEMBERS, item.step, one_stack(a, b))
        if place is not None:
            found[component] = place
    return found


def _overflow(c: Comparison) -> dict[Component, Place]:
    """Where the transformer first stops being finite at the run's precision, if it does."""
    data = c.asked()
    if data.candidate.reduced is None:
        return {}
    seed, tensors = data.settings.seeds[0], data.candidate.reduced.tensors
    for step in data.steps:
        if np.isfinite(tensors[f"s{seed}.{step}.branches"]).all():
            continue
        try:
            scan = scan_as_run(c.prober, data, c.candidate, _ROOTS["transformer"], step)
        except (RemoteError, WorkerError):
            return {}
        place = first_non_finite(scan, step)
        return {} if place is None else {"transformer": place}
    return {}


def _broken_module(
    c: Comparison, shared: Shared, side: Target, latents: Array, at: tuple[int, int]
) -> dict[Component, Place]:
    """The module that first makes something not finite in the call at `at` (seed, step), if it does so
    again when asked."""
    try:
        scan = scan_of_break(c.prober, c.case, shared, side, latents, at)
    except (RemoteError, WorkerError):
        return {}
    place = first_non_finite(scan, at[1])
    return {} if place is None else {"transformer": place}


def _measured(reference: Target, candidate: Target) -> bool:
    """Whether the reference runs in float32, or in the candidate's reduced precision."""
    mine, other = (
        {k: v for k, v in (reduced_precision(side) or {}).items() if v}
        for side in (reference, candidate)
    )
    return not mine or mine == other
