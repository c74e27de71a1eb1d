"""The links of a native render: what the stack's own loop did, held against the reference's stages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.base import Case, ScheduleTable
from harness.judge.draws import tape_noise, wrong_noise
from harness.judge.frames_fault import frames_fault
from harness.judge.jumps import JUMP
from harness.judge.last_step import held_against_end, with_other_end
from harness.judge.limits import UNIT_ROUNDOFF, limit, relative
from harness.judge.measured import PRECISE, TRANSFORMER_MEMBERS, Array, Links, LocalData
from harness.judge.solver import REPLAY_LIMIT, replay
from harness.judge.steps import held_against_noise
from harness.records import Component, Evidence, RenderRecord
from harness.render.frames import quantise

NATIVE_FACTOR = 8.0
"""Guidance amplifies the branches' rounding by an amount that depends on the latents; twice the factor
that the branches themselves are held to."""

SOLVER_FACTOR = 3.0
"""How many unit roundoffs a step at reduced precision may lie off, relative to its terms. Measured on
the micro models in bfloat16: Diffusers 0.4 to 1.9, SAT 0.2 to 0.8."""

ITSELF_FACTOR = 4.0
"""How much further than it repeats itself a side's run may lie from its own stages."""

TILE_PX = 16
FRAME_LIMIT, TILE_LIMIT, BIAS_LIMIT = 0.25, 0.6, 0.15
"""Grey levels between a frame and the decoder's own float32 frame, both quantised: root mean square over
a frame, over its worst tile, and the mean. Rounding alone flips about one value in ten thousand."""


def judge_native(links: Links, local: LocalData) -> list[Evidence]:
    """The chain along one render, from its initial latents to its frames."""
    precision = str(links.record.variant["options"].get("dtype", "float32"))
    if precision in PRECISE:
        precision = "float32"  # Diffusers' loop computes guidance and solver in float32 at most
    unit = UNIT_ROUNDOFF.get(precision, 2.0**-9)
    found = list(_latents(links, unit))
    if links.steps:
        found += [_velocity(links, local, reduced=precision != "float32"), _scales(links)]
    return [*found, *_frames(links, local)]


def judge_walk(role: str, record: RenderRecord, table: ScheduleTable) -> list[Evidence]:
    """Whether a render's loop made the steps of its case at the timesteps of `table`. Needs no probe."""
    wanted, made = table.timesteps, [step.timestep for step in record.steps]
    other = next((k for k, (a, b) in enumerate(zip(wanted, made, strict=False)) if a != b), None)
    asked = Case(**record.case).solver_steps
    if len(made) != asked:
        said = f"{len(made)} steps, and {asked} were asked for"
    elif other is not None:
        said = f"timestep {made[other]} where its schedule has {wanted[other]}"
    else:
        return []
    return [
        Evidence(
            stage="native",
            check=f"native.{role}.walk",
            component="loop",
            outcome="differs",
            detail=f"{role}'s own run made {said}",
            setting="steps" if len(made) != asked else None,
            step=other,
            seed=record.seed,
        )
    ]


def judge_finite(role: str, record: RenderRecord) -> Evidence | None:
    """Evidence against a render that stopped being finite: its first such step, and what made it."""
    first = next((s for s in record.steps if not (s.velocity_finite and s.latents_finite)), None)
    if first is None:
        return None
    component: Component = "solver" if first.velocity_finite else "transformer"
    return Evidence(
        stage="native",
        check=f"native.{role}.finite",
        component=component,
        outcome="differs",
        detail=f"{role}'s own run is not finite from step {first.step} on; the {component} made that",
        step=first.step,
        seed=record.seed,
    )


def judge_itself(links: Links, itself: Mapping[str, Array], local: LocalData) -> Iterator[Evidence]:
    """Whether a side's own run gave what its stages give when they are asked again (`ask_itself`).

    That is the contract of the stages, to the bit; what breaks it lies in the loop or after decoding, at
    any precision. A side that does not repeat itself to the bit is held to how far it repeats itself.
    """
    if links.steps:
        last = links.steps[-1]
        floor = _apart(itself[f"link.{last}.velocity"], itself[f"again.{last}.velocity"])
        # Guidance amplifies what a side varies by, and does so more at one step than at another.
        bounds = [
            0.0 if floor == 0 else max(ITSELF_FACTOR * floor, _rounding(local, k))
            for k in links.steps
        ]
        gaps = [
            _apart(links.trace[f"step_{k}.velocity"], itself[f"link.{k}.velocity"])
            for k in links.steps
        ]
        at = max(range(len(gaps)), key=lambda i: (gaps[i] > bounds[i], gaps[i]))
        yield _evidence(links, "itself.transformer", "loop", "its guided velocities against its own"
                        " stages asked again", gaps[at], bounds[at], "relative L2",
                        links.steps[at])  # fmt: skip
    first, second = (itself[f"decode.{i}.frames"] for i in range(2))
    bound = 0.0
    if first.shape == second.shape and not np.array_equal(first, second, equal_nan=True):
        # A float that varies by any amount may round to the next grey level.
        bound = 1 + ITSELF_FACTOR * 255 * float(np.abs(first - second).max())
    first = quantise(first).astype(float)
    same = first.shape == links.frames.shape
    value = float(np.abs(first - links.frames).max()) if same else math.inf
    yield _evidence(links, "itself.frames", "frames", "its frames against its own final latents"
                    " decoded again", value, bound, "grey levels")  # fmt: skip


def in_one_call(check: Evidence) -> bool:
    """Whether a check says that a velocity of a run is not what its own stages, or the calls around it,
    give: what made it went wrong in that very call, or the loop did."""
    return check.outcome == "differs" and check.check in (
        "native.candidate.itself.transformer",
        f"native.candidate{JUMP}",
    )


def in_a_module(check: Evidence) -> Evidence:
    """`check` held against the transformer, where it says `in_one_call`."""
    return check.model_copy(update={"component": "transformer"}) if in_one_call(check) else check


def _rounding(local: LocalData, step: int) -> float:
    """How far healthy guided velocities may lie apart at a step, at the run's precision."""
    if local.candidate.reduced is None:
        return limit(_member_velocities(local, step), NATIVE_FACTOR).value
    return ITSELF_FACTOR * _reduced_error(local, step)


def _apart(a: Array, b: Array) -> float:
    """Relative distance; 0 where they are equal, what is not finite included; that is judged apart."""
    return 0.0 if np.array_equal(a, b, equal_nan=True) else relative(a, b)


def _evidence(
    links: Links,
    check: str,
    component: Component,
    what: str,
    value: float,
    bound: float,
    unit: str,
    step: int | None = None,
    healthy: list[float] | None = None,
) -> Evidence:
    side = links.role
    return Evidence(
        stage="native",
        check=f"native.{side}.{check}",
        component=component,
        outcome="agrees" if value <= bound else "differs",
        detail=f"{side}'s own run, {what}: {value:.3g}, limit {bound:.3g}",
        value=value,
        limit=bound,
        unit=unit,
        healthy=healthy or [],
        step=step,
        seed=links.record.seed,
    )


def _worst(values: list[float]) -> tuple[float, int | None]:
    if not values:
        return math.inf, None
    value = max(values, key=lambda v: math.inf if math.isnan(v) else v)
    return (math.inf if math.isnan(value) else value), values.index(value)


def _latents(links: Links, unit: float) -> Iterator[Evidence]:
    trace, expected = links.trace, links.answers.tensors["own.initial"]
    value = relative(expected, trace["step_0.in"])
    yield _evidence(links, "initial", "noise", "its initial latents against the noise tape",
                    value, max(1e-6, 2 * unit), "relative L2", 0)  # fmt: skip
    inputs, results = trace["input_sketches"], trace["latents_sketches"]
    # Nothing is said of a step that was given something which is not finite.
    between = [_passed_on(a, b) for a, b in zip(results[:-1], inputs[1:], strict=True)]
    value, at = _worst([0.0, *between])
    yield _evidence(links, "between", "loop", "latents changed between two steps",
                    value, 4 * unit, "relative L2", at)  # fmt: skip
    steps = replay(
        links.table,
        links.record.case["sampler"],
        inputs,
        trace["velocity_sketches"],
        tape_noise(links.record.seed, trace["final_latents"].shape),
    )
    errors = [step.error(came) for step, came in zip(steps, results, strict=True)]
    value, at = _worst(errors)
    bound = max(REPLAY_LIMIT, SOLVER_FACTOR * unit)
    first = next((k for k, error in enumerate(errors) if error > bound), at)
    found = _evidence(links, "solver", "solver", "each solver step replayed in float64",
                      value, bound, "relative to its terms", first)  # fmt: skip
    if first is not None and bound < errors[first] < math.inf:
        if first == len(errors) - 1 and _other_end(links, bound):
            found = held_against_end(found)
        noise = wrong_noise(
            links.table, links.record.case["sampler"], first, links.record.seed,
            trace["final_latents"].shape, steps[first].state, results[first],
            (inputs, trace["velocity_sketches"]),
        )  # fmt: skip
        found = found if noise is None else held_against_noise(found, noise)
    yield found


def _other_end(links: Links, bound: float) -> bool:
    """Whether the last step is right for the other `set_alpha_to_one`."""
    steps = Case(**links.record.case).steps
    table = with_other_end(links.table, links.answers.pipeline, steps)
    if table is None:
        return False
    trace = links.trace
    replayed = replay(
        table,
        links.record.case["sampler"],
        trace["input_sketches"],
        trace["velocity_sketches"],
        tape_noise(links.record.seed, trace["final_latents"].shape),
    )
    return replayed[-1].error(trace["latents_sketches"][-1]) <= bound


def _passed_on(expected: NDArray[Any], came: NDArray[Any]) -> float:
    return relative(expected, came) if np.isfinite(expected).all() else 0.0


def _velocity(links: Links, local: LocalData, reduced: bool) -> Evidence:
    errors = [
        relative(links.answers.tensors[f"link.{k}.velocity"], links.trace[f"step_{k}.velocity"])
        for k in links.steps
    ]
    what = "its guided velocities against the reference's in float32"
    if not reduced:
        bounds = [limit(_member_velocities(local, k), NATIVE_FACTOR).value for k in links.steps]
        ratios = [e / b for e, b in zip(errors, bounds, strict=True)]
        _, at = _worst(ratios)
        at = at or 0
        return _evidence(links, "transformer", "transformer", what, errors[at], bounds[at],
                         "relative L2", links.steps[at])  # fmt: skip
    yardstick = [_reduced_error(local, k) for k in links.steps]
    ratios = [e / max(y, 1e-12) for e, y in zip(errors, yardstick, strict=True)]
    value, at = _worst(ratios)
    return _evidence(links, "transformer", "transformer",
                     what + ", in units of the reference's own error at that precision",
                     value, 3.0, "ratio", links.steps[at or 0])  # fmt: skip


def _member_velocities(local: LocalData, step: int) -> list[float]:
    """Of the healthy members, and of the reference's own error where that is known to be larger."""
    tensors = local.reference.full.tensors
    own = [local.reference_error[step]] if step in local.reference_error else []
    return own + [
        max(
            relative(tensors[f"s{s}.{step}.velocity"], tensors[f"{member}.s{s}.{step}.velocity"])
            for s in local.settings.calibration_seeds
        )
        for member in TRANSFORMER_MEMBERS
    ]


def healthy_velocity(local: LocalData) -> float:
    """How far guided velocities lie apart on equal inputs where nothing is wrong, at the run's
    precision; the largest over the probed steps."""
    exact = max(max(_member_velocities(local, k)) for k in local.steps)
    if local.candidate.reduced is None:
        return exact
    return max(exact, *(_reduced_error(local, k) for k in local.steps))


def _reduced_error(local: LocalData, step: int) -> float:
    """Relative error of the reference's guided velocity at the candidate's precision."""
    reduced = local.reference.reduced
    if reduced is None:
        return UNIT_ROUNDOFF["bfloat16"]
    full = local.reference.full.tensors
    return median(
        relative(full[f"s{s}.{step}.velocity"], reduced.tensors[f"s{s}.{step}.velocity"])
        for s in local.settings.seeds
    )


def _scales(links: Links) -> Evidence:
    """The guidance scale of every probed step against the reference's at the same timestep."""
    expected = links.answers.facts["link"]["scales"]
    gaps = [
        abs(links.record.steps[k].guidance_scale - expected[str(k)])
        / max(abs(expected[str(k)]), 1e-12)
        for k in links.steps
    ]
    value, at = _worst(gaps)
    return _evidence(links, "guidance", "guidance", "its guidance scale against the reference's",
                     value, 1e-6, "relative", links.steps[at or 0])  # fmt: skip


def _frames(links: Links, local: LocalData) -> Iterator[Evidence]:
    expected = quantise(links.answers.tensors["link.decode.0.frames"]).astype(np.float64)
    came = links.frames.astype(np.float64)
    if expected.shape != came.shape:
        yield _evidence(
            links, "frames", "frames",
            f"frames of shape {came.shape} where its latents decode to {expected.shape}"
            f"{_kind(expected, came)}",
            math.inf, FRAME_LIMIT, "grey levels",
        )  # fmt: skip
        return
    gap = came - expected
    slack = _decoder_error(local)
    frames = np.sqrt((gap**2).mean(axis=(1, 2, 3)))
    tiles = np.sqrt(_tiled(gap**2))
    bias = np.abs(gap.mean(axis=(1, 2)))
    kind = ""
    for name, values, bound, what in (
        ("frames", frames, FRAME_LIMIT, "worst frame against its own latents decoded"),
        ("region", tiles, TILE_LIMIT, "worst region against its own latents decoded"),
        ("bias", bias, BIAS_LIMIT, "mean colour of the worst frame against its latents decoded"),
    ):
        flat = values.reshape(len(values), -1).max(axis=1)
        found = _evidence(
            links, name, "frames", what, float(flat.max()),
            bound + 4 * slack, "grey levels", None,
        )  # fmt: skip
        if found.outcome == "differs":
            kind = kind or f", worst in frame {int(flat.argmax())}{_kind(expected, came)}"
            found = found.model_copy(update={"detail": found.detail + kind})
        yield found


def _kind(expected: NDArray[np.float64], came: NDArray[np.float64]) -> str:
    found = frames_fault(expected, came)
    return f"; {found.kind}: {found.told}"


def _decoder_error(local: LocalData) -> float:
    """Root mean square error, in grey levels, of the reference's decoder at the run's precision."""
    reduced = local.reference.reduced
    if reduced is None:
        return 0.0
    gap = reduced.tensors["crop.0.frames"].astype(np.float64)
    gap -= local.reference.full.tensors["crop.0.frames"]
    return 255 * float(np.sqrt((gap**2).mean()))


def _tiled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over tiles of `TILE_PX` x `TILE_PX` (fewer at the edges): (T, rows, columns)."""
    rows = np.arange(0, values.shape[1], TILE_PX)
    columns = np.arange(0, values.shape[2], TILE_PX)
    sums = np.add.reduceat(np.add.reduceat(values.mean(axis=3), rows, axis=1), columns, axis=2)
    height = np.diff([*rows, values.shape[1]])[:, None]
    return sums / (height * np.diff([*columns, values.shape[2]]))
