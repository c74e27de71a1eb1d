"""The local comparison of two variants: which questions are put to whom, in which order.

    reference, float32   its own inputs, then trajectories, healthy members, text, solver, decoder
    reference, reduced   the same questions on stored inputs, at the candidate's precision
    candidate, float32   the reference's questions on the reference's inputs
    candidate, reduced   likewise, as it is run

Each opens alone. The reduced phases are left out where the candidate runs in float32 anyway.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from backends.base import Case, ScheduleTable
from backends.stages.questions import Question, nearest
from harness.errors import WorkerError
from harness.judge.measured import (
    OTHER_MEMBERS,
    PRECISE,
    TRANSFORMER_MEMBERS,
    Answers,
    Array,
    LocalData,
    ProbeSettings,
    Side,
)
from harness.probe.prober import Prober, Shared, Target
from harness.render.plan import probe_steps
from harness.workers.client import RemoteError

FULL_PRECISION: Mapping[str, Any] = {
    "dtype": "float32",
    "vae_dtype": None,
    "text_dtype": None,
    "allow_tf32": False,
}
"""The options that decide a pipeline's precision, where it has them, at their most exact."""

REDUCED_CROP = 2
"""Rows and columns of latents that are decoded at reduced precision: convolutions in it can be fifty
times slower on a CPU, and the decoder does the same to every part."""

OTHER_PROMPTS = (
    "a blue square moving right on a black background",
    "two cats and three dogs run fast over large stones while small birds sing, slow motion, high"
    " quality, detailed light, camera follows, an orange or purple star turning around its center",
)
"""Prompts that the case does not have: another of ordinary length, and one that no model takes whole."""


def _prompts(case: Case) -> tuple[str, ...]:
    return (*OTHER_PROMPTS, case.negative_prompt)


def reduced_precision(target: Target) -> dict[str, Any] | None:
    """The options that decide `target`'s precision, or None if they are the most exact ones."""
    own = {k: v for k, v in target.variant.options.items() if k in FULL_PRECISION}
    exact = all(value in (FULL_PRECISION[key], None, *PRECISE) for key, value in own.items())
    return None if exact else own


def probe_pair(
    prober: Prober,
    case: Case,
    reference: Target,
    candidate: Target,
    settings: ProbeSettings,
    equalised: str | None,
) -> LocalData:
    """Put all questions to both variants. Raises `RemoteError` or `WorkerError` as `Prober` does."""
    steps = tuple(probe_steps(case.solver_steps))
    reduced = reduced_precision(candidate)
    first = Question("own", "own", seed=settings.seeds[0])
    asked = [first, *start_questions(settings.seeds)]
    own = prober.ask(reference.at(FULL_PRECISION), case, Shared(), asked, {})
    table = ScheduleTable(**own.facts["own"]["schedule"])
    with TemporaryDirectory(prefix="parity-probe-") as folder:
        shared = _shared(own, table, Path(folder))
        a_full = prober.ask(
            reference.at(FULL_PRECISION),
            case,
            shared,
            _reference(case, settings, steps, equalised),
            {},
        )
        given = _given(a_full, settings, steps)
        b_own = prober.ask(candidate.at(FULL_PRECISION), case, Shared(), asked, {})
        if b_own.facts["own"]["schedule"] == own.facts["own"]["schedule"]:
            # It is not imposed where it is the candidate's own: then its solver sees real timesteps.
            shared = replace(shared, share=tuple(f for f in shared.share if f != "schedule"))
        pictured = f"s{settings.seeds[0]}.image" in a_full.tensors
        again = _candidate(case, settings, steps, pictured)
        calibrated = [*again, *_members(case, settings, steps)]
        a_less = b_less = None
        if reduced is not None:
            at_less = reference.at({**FULL_PRECISION, **reduced})
            a_less = prober.ask(at_less, case, shared, _cheap(calibrated), given)
        b_full = prober.ask(candidate.at(FULL_PRECISION), case, shared, again, given)
        if reduced is not None:
            b_less = prober.ask(candidate, case, shared, _cheap(again), given)
    return LocalData(
        case,
        steps,
        settings,
        table,
        Side(own | a_full, a_less),
        Side(b_own | b_full, b_less),
        equalised,
    )


def start_questions(seeds: Sequence[int]) -> list[Question]:
    """Initial latents of two noise seeds, in one order and then in the other: what depends on how many
    videos a pipeline has made before shows here, and costs no call."""
    first, second = (*seeds, seeds[0] + 1)[:2]
    order = (first, second, second, first)
    return [Question(f"start.{i}", "start", seed=seed) for i, seed in enumerate(order)]


def scan_pair(
    prober: Prober, data: LocalData, sides: tuple[Target, Target], root: str, step: int
) -> tuple[Answers, Answers]:
    """Both sides' scans of component `root`, in float32, on the reference's inputs at `step`; where that
    was not probed, on its latents at the nearest step that was.

    The reference also answers as each of `OTHER_MEMBERS`, as "<member>.scan".
    """
    seed, full = data.settings.seeds[0], data.reference.full
    image = f"s{seed}.image" if f"s{seed}.image" in full.tensors else ""
    given = {name: full.tensors[name] for name in (f"s{seed}.clean", image) if name}
    given[f"s{seed}.{step}.in"] = full.tensors[f"s{seed}.{nearest(data.steps, step)}.in"]
    plain = Question(
        "scan",
        "scan",
        seed=seed,
        steps=(step,),
        source=f"s{seed}",
        sources=(f"s{seed}.clean",),
        prompts=OTHER_PROMPTS[:1],
        root=root,
        image=image,
    )
    as_members = [replace(plain, id=f"{m}.scan", member=m) for m in OTHER_MEMBERS]
    if data.equalised is not None and root == "transformer":
        plain_a = replace(plain, member=data.equalised)
    else:
        plain_a = plain
    with TemporaryDirectory(prefix="parity-scan-") as folder:
        shared = _shared(full, data.table, Path(folder))
        a, b = (side.at(FULL_PRECISION) for side in sides)
        mine = prober.ask(a, data.case, shared, [plain_a, *as_members], given)
        return mine, prober.ask(b, data.case, shared, [plain], given)


def scan_as_run(
    prober: Prober, data: LocalData, candidate: Target, root: str, step: int
) -> Answers:
    """The candidate's scan at the precision that it is run in."""
    seed, full = data.settings.seeds[0], data.reference.full
    name = f"s{seed}.{step}.in"
    question = Question("scan", "scan", seed=seed, steps=(step,), source=f"s{seed}", root=root)
    with TemporaryDirectory(prefix="parity-scan-") as folder:
        shared = _shared(full, data.table, Path(folder))
        return prober.ask(candidate, data.case, shared, [question], {name: full.tensors[name]})


def predict_in_float64(
    prober: Prober,
    data: LocalData,
    side: Target,
    places: Sequence[tuple[int, int]],
    member: str | None = None,
) -> Answers | str:
    """Branches of `side` at `places`, (step, seed) each, in float64, as "precise.s<seed>"; or why it
    cannot say.

    Every scalar path is in float64, too (`backends.stages.exact_arithmetic`). `member` equalises a known
    difference besides. Weights are opened in float64 where the backend can, else widened in place.
    """
    seeds = dict.fromkeys(seed for _, seed in places)
    given = {f"s{seed}.{step}.in": data.reference.full.tensors[f"s{seed}.{step}.in"]
             for step, seed in places}  # fmt: skip
    questions = [
        Question(
            f"precise.s{seed}",
            "predict",
            member="float64" if member is None else f"float64+{member}",
            seed=seed,
            steps=tuple(k for k, s in places if s == seed),
            source=f"s{seed}",
        )
        for seed in seeds
    ]
    why = ""
    with TemporaryDirectory(prefix="parity-precise-") as folder:
        shared = _shared(data.reference.full, data.table, Path(folder))
        for dtype in ("float64", "float32"):
            target = side.at({**FULL_PRECISION, "dtype": dtype})
            try:
                return prober.ask(target, data.case, shared, questions, given)
            except (RemoteError, WorkerError) as error:
                why = str(error)
    return why


def share_inputs(own: Answers, table: ScheduleTable, folder: Path, latent_dtype: str) -> Path:
    """Write what "own" answered as an inputs file that others are given; return its path."""
    from safetensors.numpy import save_file

    path = folder / "inputs.safetensors"
    save_file({name: own.tensors[f"own.{name}"] for name in ("text", "negative_text")}, path)
    scale = own.pipeline.policies.get("image_scale")
    meta = {"schedule": asdict(table), "latent_dtype": latent_dtype, "image_scale": scale}
    path.with_suffix(".json").write_text(json.dumps(meta))
    return path


def _shared(own: Answers, table: ScheduleTable, folder: Path) -> Shared:
    path = share_inputs(own, table, folder, "float32")
    return Shared(path, ("text", "unconditional", "schedule", "image"), "float32")


def _reference(
    case: Case, settings: ProbeSettings, steps: tuple[int, ...], equalised: str | None
) -> list[Question]:
    """The reference makes the trajectories that everyone answers on, and is its own healthy ensemble."""
    questions = [
        Question(f"s{seed}", "trajectory", seed=seed, steps=steps)
        for seed in (*settings.calibration_seeds, *settings.seeds)
    ]
    if equalised is not None:
        questions += [
            replace(q, id=f"eq.{q.id}", member=equalised)
            for q in _predictions(settings.seeds, steps)
        ]
    return [
        *questions,
        *_without_predictions(case, settings, steps),
        *_members(case, settings, steps),
    ]


def _candidate(
    case: Case, settings: ProbeSettings, steps: tuple[int, ...], pictured: bool
) -> list[Question]:
    """`pictured`: each trajectory has its picture's latents, so that a picture that is encoded wrongly
    is not the transformer's fault."""
    first = settings.seeds[:1]
    repeated = [replace(q, id=f"again.{q.id}") for q in _predictions(first, steps[:1], pictured)]
    return [
        *_predictions(settings.seeds, steps, pictured),
        *_without_predictions(case, settings, steps),
        *repeated,
    ]


def _predictions(
    seeds: Sequence[int], steps: tuple[int, ...], pictured: bool = False
) -> list[Question]:
    return [
        Question(
            f"s{s}", "predict", seed=s, steps=steps, source=f"s{s}",
            image=f"s{s}.image" if pictured else "",
        )
        for s in seeds
    ]  # fmt: skip


def _without_predictions(
    case: Case, settings: ProbeSettings, steps: tuple[int, ...]
) -> list[Question]:
    """Text, solver and decoder; the first is decoded a second time after another video."""
    cleans = tuple(f"s{seed}.clean" for seed in settings.seeds[:2])
    return [
        Question("text", "text", prompts=_prompts(case)),
        *(
            Question(f"solve.s{s}", "solve", seed=s, steps=steps, source=f"s{s}")
            for s in settings.seeds[:2]
        ),
        Question("decode", "decode", sources=(*cleans, cleans[0])),
        Question("crop", "decode", sources=cleans, crop=REDUCED_CROP),
        Question("text_again", "text", prompts=_prompts(case)[:1]),
    ]


def _members(case: Case, settings: ProbeSettings, steps: tuple[int, ...]) -> list[Question]:
    seeds = settings.calibration_seeds
    clean = (f"s{seeds[0]}.clean",)
    found: list[Question] = []
    for member in ("plain", *TRANSFORMER_MEMBERS):
        found += [
            replace(q, id=f"{member}.{q.id}", member=member) for q in _predictions(seeds, steps)
        ]
    for member in ("plain", *OTHER_MEMBERS):
        found += [
            Question(f"{member}.text", "text", member=member, prompts=_prompts(case)),
            Question(f"{member}.decode", "decode", member=member, sources=clean),
            Question(f"{member}.crop", "decode", member=member, sources=clean, crop=REDUCED_CROP),
            *_image(case, settings, member),
        ]
    return found


def _image(case: Case, settings: ProbeSettings, member: str) -> list[Question]:
    """The conditioning image as a member encodes it, where the case has one."""
    if case.image is None and case.video is None:
        return []
    return [Question(f"{member}.own", "own", member=member, seed=settings.seeds[0])]


def _cheap(questions: Sequence[Question]) -> list[Question]:
    """Without the decoding of whole videos."""
    return [q for q in questions if q.kind != "decode" or q.crop is not None]


def _given(reference: Answers, settings: ProbeSettings, steps: tuple[int, ...]) -> dict[str, Array]:
    """The reference's inputs and velocities, which the others are given."""
    names = [
        f"s{seed}.{name}"
        for seed in (*settings.calibration_seeds, *settings.seeds)
        for name in ("clean", *(f"{k}.{n}" for k in steps for n in ("in", "velocity")))
    ]
    names += [n for n in reference.tensors if n.startswith("s") and n.endswith(".image")]
    return {name: reference.tensors[name] for name in names}
