"""Answer a probe's questions with the stages of an open pipeline; see `backends.stages.questions`."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from backends.base import Case, Inputs, Pipeline, Prediction, Run, ScheduleTable
from backends.checkpoints.tensors import digest
from backends.errors import InvalidRequest
from backends.noise import NoiseTape
from backends.stages.arguments import ArgumentRecord, watching
from backends.stages.healthy import healthy
from backends.stages.questions import Question, nearest
from backends.stages.scan import Scan, scanning
from backends.stages.stand_in import answering
from backends.stages.trace import sketch
from backends.stages.weights_in_use import audit_offload


@dataclass
class Answers:
    """What a pipeline answered: CPU tensors by name, plain facts by question, guided calls made."""

    tensors: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    facts: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    guided_calls: int = 0
    arguments: dict[str, ArgumentRecord] = field(default_factory=dict[str, ArgumentRecord])

    def put(self, name: str, tensor: Tensor) -> None:
        """Keep a copy of `tensor` under `name`, in its own dtype."""
        self.tensors[name] = tensor.detach().cpu().contiguous().clone()


def answer(
    pipeline: Pipeline,
    case: Case,
    inputs: Inputs,
    questions: Sequence[Question],
    given: Mapping[str, Tensor],
) -> Answers:
    """Answer `questions` in their order. `given` holds the tensors that they name.

    `inputs` are what the pair shares; questions of kind `own` and `text` are answered without them.
    """
    answers = Answers()
    kinds: dict[str, Callable[[_Asked], None]] = {
        "own": _own,
        "start": _start,
        "varied": _varied,
        "text": _text,
        "trajectory": _trajectory,
        "predict": _predict,
        "solve": _solve,
        "decode": _decode,
        "scan": _scan,
        "native_scan": _native_scan,
        "run": _whole_run,
        "guide": _guide,
        "advance": _advance,
        "in_use": _in_use,
    }
    for question in questions:
        if question.kind not in kinds:
            raise InvalidRequest(f"a probe asked {question.kind!r}; known: {', '.join(kinds)}")
        with healthy(pipeline, question.member):
            kinds[question.kind](_Asked(pipeline, case, inputs, question, given, answers))
    for asked, record in answers.arguments.items():
        answers.facts.setdefault(asked, {})["arguments"] = record.calls
        for index, tensor in enumerate(record.tensors):
            answers.put(f"{asked}.argument.{index}", tensor)
    return answers


@dataclass(frozen=True)
class _Asked:
    pipeline: Pipeline
    case: Case
    inputs: Inputs
    question: Question
    given: Mapping[str, Tensor]
    answers: Answers

    def put(self, name: str, tensor: Tensor) -> None:
        self.answers.put(f"{self.question.id}.{name}", tensor)

    def tensor(self, name: str) -> Tensor:
        found = self.given.get(name, self.answers.tensors.get(name))
        if found is None:
            raise InvalidRequest(f"a probe named the tensor {name!r}, which it did not bring")
        return found

    def run(self, tape: NoiseTape) -> Run:
        """The prepared run with its conditioning image encoded."""
        run = self.pipeline.prepare(self.case, self.inputs)
        picture = run.encode_image(tape)
        if self.question.image:
            if picture is None:
                raise InvalidRequest("a probe brought an image's latents; this run takes no image")
            given = self.tensor(self.question.image)
            if given.shape == picture.shape:  # else its encoding is wrong, and is judged as such
                picture.copy_(given)  # the run keeps this very tensor
        if picture is not None and self.question.kind == "trajectory":
            self.put("image", picture)
        return run

    @contextmanager
    def noting(self, label: str, **known: Any) -> Generator[None]:
        """Record what components are given within the block, unless a healthy member answers; `known` is
        what `ArgumentRecord.add` can tell arguments by."""
        if self.question.member != "plain":
            yield
            return
        record = self.answers.arguments.setdefault(self.question.id, ArgumentRecord())
        with watching(self.pipeline) as calls:
            yield
        for call in calls:
            record.add(call, label, **known)

    def predict(self, run: Run, latents: Tensor, step: int) -> Prediction:
        text = torch.cat([run.negative_text, run.text])  # encoded here, before anything is watched
        told = {"latents": latents, "text": text, "timestep": run.schedule.timesteps[step]}
        with self.noting(str(step), **told):
            prediction = run.predict(latents, step)
        self.answers.guided_calls += 1
        self.put(f"{step}.velocity", prediction.velocity)
        self.put(f"{step}.branches", prediction.branches)
        if prediction.native is not None:
            self.put(f"{step}.native", prediction.native)
        scales = self.answers.facts.setdefault(self.question.id, {}).setdefault("scales", {})
        scales[str(step)] = prediction.guidance_scale
        return prediction


def _own(asked: _Asked) -> None:
    run, tape = asked.pipeline.prepare(asked.case, Inputs()), NoiseTape(asked.question.seed)
    asked.put("text", run.text)
    asked.put("negative_text", run.negative_text)
    with asked.noting("picture"):
        image = run.encode_image(tape)
    if image is not None:
        asked.put("image", image)
    _clip(asked, run)
    with asked.noting("clip"):
        initial = run.initial_latents(tape)
    asked.put("initial", initial)
    asked.answers.facts[asked.question.id] = {"schedule": asdict(run.schedule)}


def _clip(asked: _Asked, run: Run) -> None:
    # A pipeline of another package may know of no clips.
    encode_clip = getattr(run, "encode_clip", None)
    clip = None if encode_clip is None else encode_clip(NoiseTape(asked.question.seed))
    if clip is not None:
        asked.put("clip", clip)


def _start(asked: _Asked) -> None:
    run, tape = asked.pipeline.prepare(asked.case, Inputs()), NoiseTape(asked.question.seed)
    run.encode_image(tape)
    _clip(asked, run)
    asked.put("initial", run.initial_latents(tape))


def _varied(asked: _Asked) -> None:
    tape = NoiseTape(asked.question.seed)
    run = asked.run(tape)
    latents, sketches, seen = run.initial_latents(tape), list[Tensor](), dict[str, Any]()
    for step in asked.question.steps:
        branches = run.predict(latents, step).branches
        asked.answers.guided_calls += 1
        sketches.append(sketch(branches))
        finite = bool(torch.isfinite(branches).all())
        seen[str(step)] = {"digest": digest(branches), "finite": finite}
    asked.put("initial", latents)
    asked.put("sketches", torch.stack(sketches))
    asked.answers.facts[asked.question.id] = seen


def _text(asked: _Asked) -> None:
    for index, words in enumerate(asked.question.prompts):
        run = asked.pipeline.prepare(replace(asked.case, prompt=words), Inputs())
        with asked.noting(str(index)):
            text = run.text
        asked.put(f"{index}.text", text)


def _trajectory(asked: _Asked) -> None:
    tape, steps = NoiseTape(asked.question.seed), asked.question.steps
    run = asked.run(tape)
    latents, table = run.initial_latents(tape).float(), run.schedule
    for index, step in enumerate(steps):
        asked.put(f"{step}.in", latents)
        velocity = asked.predict(run, latents, step).velocity.float().to(latents.device)
        latents = jump(latents, velocity, table, step, steps[index + 1 : index + 2])
    asked.put("clean", latents)


def jump(x: Tensor, v: Tensor, table: ScheduleTable, step: int, target: Sequence[int]) -> Tensor:
    """The deterministic DDIM rule from `step` to step `target[0]`, or to the clean sample.

    x0 = sqrt(a) x - sqrt(1 - a) v, e = sqrt(a) v + sqrt(1 - a) x, x' = sqrt(a') x0 + sqrt(1 - a') e.
    """
    a = table.alpha_bar[step]
    clean = math.sqrt(a) * x - math.sqrt(1 - a) * v
    if not target:
        return clean
    b = table.alpha_bar[target[0]]
    return math.sqrt(b) * clean + math.sqrt(1 - b) * (math.sqrt(a) * v + math.sqrt(1 - a) * x)


def _predict(asked: _Asked) -> None:
    run = asked.run(NoiseTape(asked.question.seed))
    for step in asked.question.steps:
        asked.predict(run, asked.tensor(f"{asked.question.source}.{step}.in"), step)


def _solve(asked: _Asked) -> None:
    question, tape = asked.question, NoiseTape(asked.question.seed)
    run = asked.run(tape)
    run.initial_latents(tape)  # the draw is due before those of the steps
    latents, states = asked.tensor(f"{question.source}.{question.steps[0]}.in"), list[Tensor]()
    for step in range(len(run.schedule.timesteps)):
        velocity = asked.tensor(f"{question.source}.{nearest(question.steps, step)}.velocity")
        velocity = velocity.float()
        latents = run.step(latents.to(velocity), Prediction(velocity, velocity, 1.0), step, tape)
        states.append(sketch(latents))
    asked.put("states", torch.stack(states))
    asked.put("final", latents.float())


def _decode(asked: _Asked) -> None:
    run = asked.pipeline.prepare(asked.case, asked.inputs)
    crop = asked.question.crop
    for index, source in enumerate(asked.question.sources):
        latents = asked.tensor(source)[..., :crop, :crop].contiguous()
        with asked.noting(str(index)):
            frames = run.decode(latents)
        asked.put(f"{index}.frames", frames)


def _scan(asked: _Asked) -> None:
    """One pass of a component on its given input, every module watched."""
    question = asked.question
    tape = NoiseTape(question.seed)
    run = asked.run(tape)
    with scanning(asked.pipeline, question.root) as found:
        if question.root == "text_encoder":
            words = replace(asked.case, prompt=question.prompts[0])
            _ = asked.pipeline.prepare(words, Inputs()).text
        elif question.root == "vae":
            latents = asked.tensor(question.sources[0])
            run.decode(latents)
        else:
            run.predict(
                asked.tensor(f"{question.source}.{question.steps[0]}.in"), question.steps[0]
            )
            asked.answers.guided_calls += 1
    _put_scan(asked.answers, question, question.id, found)


def _put_scan(answers: Answers, question: Question, name: str, found: Scan) -> None:
    if not found.names:
        raise InvalidRequest(f"no module of {question.root!r} was called; there is nothing to scan")
    answers.put(f"{name}.inputs", torch.stack(found.inputs))
    answers.put(f"{name}.outputs", torch.stack(found.outputs))
    answers.facts[name] = {"names": list(found.names), "moments": list(found.moments)}


class _Reached(Exception):
    """Ends a native run after the step that was asked about."""


def _native_scan(asked: _Asked) -> None:
    """One step of the pipeline's own loop with every module watched, and the same step by hand."""
    question, wanted, given = asked.question, asked.question.steps[0], list[Tensor]()

    def observe(
        step: int, timestep: int, latents: Tensor, prediction: Prediction, result: Tensor
    ) -> None:
        asked.answers.guided_calls += 1
        if step == wanted:
            given.append(latents.detach().clone())
            raise _Reached
        found.clear()

    tape = NoiseTape(question.seed)
    with scanning(asked.pipeline, question.root) as found, suppress(_Reached):
        asked.pipeline.render(asked.case, asked.inputs, tape, observe)
    if not given:
        raise InvalidRequest(f"the pipeline's own run ended before step {wanted}")
    _put_scan(asked.answers, question, question.id, found)
    run = asked.run(NoiseTape(question.seed))
    for name in ("again", "repeat"):
        with scanning(asked.pipeline, question.root) as found:
            run.predict(given[0], wanted)
        asked.answers.guided_calls += 1
        _put_scan(asked.answers, question, f"{name}.{question.id}", found)


def _guide(asked: _Asked) -> None:
    """The pipeline's own guidance on branches that it did not compute."""
    run, (latents, predicted) = asked.run(NoiseTape(asked.question.seed)), asked.question.sources
    for step in asked.question.steps:
        x = asked.tensor(f"{latents}.{step}.in")
        with answering(asked.pipeline, asked.tensor(f"{predicted}.{step}.branches")):
            prediction = run.predict(x, step)
        velocity = prediction.velocity.float()
        if prediction.native is not None:  # what is guided there is the clean sample
            table = run.schedule
            level = (table.alpha_bar_clean or table.alpha_bar)[step]
            clean = prediction.native.double()
            noisy = math.sqrt(level) * x.to(clean)
            velocity = ((noisy - clean) / math.sqrt(1 - level)).float()
        asked.put(f"{step}.velocity", velocity)


def _advance(asked: _Asked) -> None:
    """The solver alone, from the start, so that its state is its own."""
    question, tape = asked.question, NoiseTape(asked.question.seed)
    run = asked.run(tape)
    run.initial_latents(tape)  # the draw is due before those of the steps
    latents = asked.tensor(f"{question.source}.0.in")
    velocities = {
        step: asked.tensor(f"{source}.{step}.velocity").float()
        for step, source in zip(question.steps, question.sources, strict=True)
    }
    for step in range(question.until):
        velocity = velocities[max(k for k in question.steps if k <= step)]
        latents = run.step(latents.to(velocity), Prediction(velocity, velocity, 1.0), step, tape)
    asked.put(f"{question.until}.in", latents.float())


def _whole_run(asked: _Asked) -> None:
    """Every step, driven by hand."""
    tape = NoiseTape(asked.question.seed)
    run = asked.run(tape)
    latents = run.initial_latents(tape)
    for step in range(len(run.schedule.timesteps)):
        prediction = run.predict(latents, step)
        asked.answers.guided_calls += 1
        latents = run.step(latents, prediction, step, tape)
    asked.put("final", latents.float())


def _in_use(asked: _Asked) -> None:
    """Text, the given steps and a piece of the decoder, every weight hashed inside the module that
    uses it and held against what the pipeline says that it holds."""
    question, pipeline = asked.question, asked.pipeline

    def short_run() -> None:
        tape = NoiseTape(question.seed)
        run = asked.run(tape)
        latents = run.initial_latents(tape)
        for step in question.steps:
            run.predict(latents, step)
            asked.answers.guided_calls += 1
        run.decode(latents[..., : question.crop, : question.crop].contiguous())

    found = audit_offload(pipeline, pipeline.identity(), short_run)
    asked.answers.facts[question.id] = found.to_json()
