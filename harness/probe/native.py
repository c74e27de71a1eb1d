"""The links of a finished native render, answered again by the reference's stages in float32.

A stage that agrees proves nothing about the loop that users run. So the reference is given what the
render's own loop handed to its transformer and its decoder, with the text and the schedule that this
render used, and says what should have come out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from backends.base import Case, ScheduleTable
from backends.stages.questions import Question
from harness.judge.measured import Answers, Array, Links
from harness.probe.prober import Prober, Shared, Target
from harness.probe.stages import FULL_PRECISION, OTHER_PROMPTS, start_questions
from harness.records import Evidence, RenderRecord
from harness.render.frames import read_frames
from harness.render.kept import read_trace, schedule_used
from harness.render.plan import probe_steps
from harness.store.store import Store


def probe_links(
    prober: Prober,
    store: Store,
    case: Case,
    reference: Target,
    record: RenderRecord,
    role: str,
    member: str,
    guided: bool,
) -> Links:
    """Ask the reference about one finished render; `member` equalises a known difference.

    Without `guided` no velocity is asked for, and no guided call is made.
    """
    trace = read_trace(store, record)
    probed = probe_steps(case.solver_steps) if guided else []
    steps = tuple(k for k in probed if f"step_{k}.in" in trace)
    seed = record.seed
    questions = [
        Question("own", "own", seed=seed),
        Question("link.decode", "decode", sources=("given.final",)),
    ]
    if steps:
        link = Question("link", "predict", member=member, seed=seed, steps=steps, source="given")
        questions.append(link)
    given = {f"given.{k}.in": trace[f"step_{k}.in"] for k in steps}
    given["given.final"] = trace["final_latents"]
    with TemporaryDirectory(prefix="parity-links-") as folder:
        shared, table = _used(store, record, Path(folder))
        answers = prober.ask(reference.at(FULL_PRECISION), case, shared, questions, given)
    frames = read_frames(store.render_folder(record.key) / "frames.mkv")
    return Links(role, record, trace, frames, table, steps, answers)


def ask_itself(
    prober: Prober, store: Store, case: Case, side: Target, record: RenderRecord, guided: bool
) -> Mapping[str, Array]:
    """What the side that made `record` gives when its stages are asked for its links again, as it ran.

    `link.<k>.velocity` on the inputs of its own steps (with `guided`), and `decode.0.frames`; the last
    velocity once more as `again.<k>.velocity`, and the frames as `decode.1.frames`.
    """
    trace = read_trace(store, record)
    probed = probe_steps(case.solver_steps) if guided else []
    steps = tuple(k for k in probed if f"step_{k}.in" in trace)
    questions = [Question("decode", "decode", sources=("given.final", "given.final"))]
    if steps:
        link = Question("link", "predict", seed=record.seed, steps=steps, source="given")
        questions += [link, replace(link, id="again", steps=steps[-1:])]
    given = {f"given.{k}.in": trace[f"step_{k}.in"] for k in steps}
    given["given.final"] = trace["final_latents"]
    return prober.ask(side, case, shared_with(store, record), questions, given).tensors


def beyond_the_render(
    prober: Prober,
    store: Store,
    case: Case,
    sides: tuple[Target, Target],
    record: RenderRecord,
) -> tuple[Evidence, Array | None]:
    """Whether two sides whose renders are equal in every bit also agree on what those did not ask.

    Other prompts, another video decoded in between, the same again, the noise of two seeds in both
    orders: state that one run leaves to the next shows here. And as many transformer calls on other
    noise as the run made, `VARIED_CALLS` at least: what fails in some calls only shows there. Answers
    are compared bit for bit, at the precision of the run. The evidence has a component, step and seed
    where such calls are all that differs; then the latents of the first come with it.
    """
    trace = read_trace(store, record)
    given = {"given.0.in": trace["step_0.in"], "given.final": trace["final_latents"]}
    small = 2  # rows and columns of latents; decoding a whole video is not what is asked
    first = Question("p", "predict", seed=record.seed, steps=(0,), source="given")
    questions = [
        first,
        Question("text", "text", prompts=(*OTHER_PROMPTS, case.prompt)),
        Question("d", "decode", sources=("given.final", "given.0.in", "given.final"), crop=small),
        replace(first, id="again"),
        Question("text_again", "text", prompts=OTHER_PROMPTS[:1]),
        *start_questions((record.seed, record.seed + 1)),
        *varied_questions(case.solver_steps, record.seed),
    ]
    a, b = (prober.ask(side, case, Shared(), questions, given) for side in sides)
    names = [name for name in a.tensors if name in b.tensors]
    pairs = [(a.tensors[name], b.tensors[name], name) for name in names]
    pairs += [(b.tensors[x], b.tensors[y], y) for x, y in _REPEATED]
    different = [name for x, y, name in pairs if not np.array_equal(x, y, equal_nan=True)]
    different += sorted(a.tensors.keys() ^ b.tensors.keys())
    calls = _varied(a, b)
    at = None
    if calls and all(name.startswith("varied.") for name in different):
        at = next((place for place, broken in calls if broken), calls[0][0])
    different += [f"the transformer at step {k} of seed {s}" for (s, k), _ in calls]
    said = f"answers differ in {', '.join(different[:4])}" if different else "all answers are equal"
    if any(broken for _, broken in calls):
        said += "; the candidate's is not finite there, which the reference's is"
    evidence = Evidence(
        stage="order",
        check="order.beyond",
        component=None if at is None else "transformer",
        step=None if at is None else at[1],
        seed=None if at is None else at[0],
        outcome="differs" if different else "agrees",
        detail=f"other prompts, another video, and the same again, bit for bit: {said}",
        value=float(len(different)),
        limit=0.0,
        unit="answers",
    )
    return evidence, None if at is None else b.tensors[f"varied.{at[0]}.initial"]


VARIED_CALLS = 48
"""Further guided calls of each side at least: what fails in 5 % of all calls passes so many one time in
twelve, and the run's own made it pass before."""


def varied_questions(steps: int, seed: int) -> list[Question]:
    """Every step on the initial latents of other seeds, until `VARIED_CALLS` are made."""
    rounds = -(-VARIED_CALLS // steps)
    return [
        Question(f"varied.{seed + i}", "varied", seed=seed + i, steps=tuple(range(steps)))
        for i in range(1, rounds + 1)
    ]


def _varied(a: Answers, b: Answers) -> list[tuple[tuple[int, int], bool]]:
    """The calls that differ, (seed, step) each, and whether only the candidate's is not finite."""
    found: list[tuple[tuple[int, int], bool]] = []
    for name in (name for name in a.facts if name.startswith("varied.")):
        for step, mine in a.facts[name].items():
            other = b.facts[name].get(step)
            if not step.isdigit() or mine["digest"] == other["digest"]:
                continue
            at = int(name.partition(".")[2]), int(step)
            found.append((at, mine["finite"] and not other["finite"]))
    return found


def scan_of_break(
    prober: Prober, case: Case, shared: Shared, side: Target, latents: Array, at: tuple[int, int]
) -> Answers:
    """The scan of the transformer, as `side` runs, of the call at `at` (seed, step) on `latents`."""
    seed, step = at
    question = Question("scan", "scan", seed=seed, steps=(step,), source="at", root="transformer")
    return prober.ask(side, case, shared, [question], {f"at.{step}.in": latents})


def shared_with(store: Store, record: RenderRecord) -> Shared:
    """What a render was given, for questions to be asked on the same."""
    inputs = None if record.inputs_key is None else store.inputs_path(record.inputs_key)
    return Shared(inputs, tuple(record.share))


_REPEATED = (
    ("p.0.branches", "again.0.branches"),
    ("text.0.text", "text_again.0.text"),
    ("d.0.frames", "d.2.frames"),
)


def _used(store: Store, record: RenderRecord, folder: Path) -> tuple[Shared, ScheduleTable]:
    """The inputs that a render really used: shared factors from the reference, the rest its own."""
    from safetensors.torch import load_file, save_file

    shared, own = record.inputs_key, record.own_inputs_key or ""
    places = {True: store.inputs_path(shared or own), False: store.inputs_path(own)}
    tensors = {taken: load_file(str(path)) for taken, path in places.items()}
    metas: dict[bool, dict[str, Any]] = {
        taken: json.loads(path.with_suffix(".json").read_text()) for taken, path in places.items()
    }
    factors = ("text", "unconditional", "schedule", "image")
    taken = {factor: factor in record.share for factor in factors}
    path = folder / "inputs.safetensors"
    save_file(
        {
            "text": tensors[taken["text"]]["text"].float(),
            "negative_text": tensors[taken["unconditional"]]["negative_text"].float(),
        },
        str(path),
    )
    table = schedule_used(store, record)
    scale = metas[taken["image"]].get("image_scale")
    meta = {"schedule": asdict(table), "latent_dtype": "float32", "image_scale": scale}
    path.with_suffix(".json").write_text(json.dumps(meta))
    return Shared(path, factors, "float32"), table
