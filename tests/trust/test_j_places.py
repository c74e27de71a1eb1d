"""Kind J: the place that is named is the place that is wrong.

What the pipeline hands to a component is compared by name, on the stages and in the native run, so
that no module is blamed for a wrong table, mask or timestep.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from backends.base import Case, Inputs, Pipeline
from backends.diffusers.adapter import DiffusersBackend
from backends.stages.answers import answer
from backends.stages.arguments import ArgumentRecord, Call, flattened
from backends.stages.questions import Question
from backends.worker.worker import Worker
from harness.judge.arguments import (
    CHECK,
    Called,
    Seen,
    acting,
    coverage,
    difference,
    judge_arguments,
    paired,
    read_calls,
)
from harness.judge.causes import causes
from harness.judge.measured import Answers
from harness.judge.native_arguments import Handed, judge_native_arguments
from harness.records import Evidence, PipelineRecord

CASE = Case(
    name="j", model="micro-5b", prompt="a red circle", negative_prompt="", frames=9, height=64,
    width=64, steps=4, guidance_scale=6.0, dynamic_guidance=True, sampler="dpm", fps=8,
)  # fmt: skip
STEPS = (0, 2)


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    opened = DiffusersBackend().open("micro-5b", {"device": "cpu"})
    yield opened
    opened.close()


def _asked(pipeline: Pipeline, questions: list[Question], given: dict[str, Any]) -> Answers:
    with torch.no_grad():
        came = answer(pipeline, CASE, Inputs(), questions, given)
    record = PipelineRecord(weights={}, dtypes={}, configs={}, policies={})
    tensors = {name: tensor.float().numpy() for name, tensor in came.tensors.items()}
    return Answers(record, tensors, came.facts)


@pytest.fixture(scope="module")
def reference(pipeline: Pipeline) -> Answers:
    """Text, two steps and a decoded video, as the pipeline makes them."""
    asked = [
        Question("text", "text", prompts=("a blue square", "two dogs")),
        Question("s0", "trajectory", steps=STEPS),
        Question("decode", "decode", sources=("s0.clean",), crop=2),
    ]
    return _asked(pipeline, asked, {})


def _candidate(pipeline: Pipeline, reference: Answers) -> Answers:
    given = {n: torch.from_numpy(t) for n, t in reference.tensors.items() if n.startswith("s0.")}
    asked = [
        Question("text", "text", prompts=("a blue square", "two dogs")),
        Question("s0", "predict", steps=STEPS, source="s0"),
        Question("decode", "decode", sources=("s0.clean",), crop=2),
    ]
    return _asked(pipeline, asked, given)


@contextmanager
def _handed(pipeline: Pipeline, root: str, change: Callable[[Any], Any]) -> Iterator[None]:
    """Let the caller of component `root` hand it other keyword arguments."""

    def act(_module: Any, args: Any, kwargs: Any) -> Any:
        return args, change(kwargs)

    hook: Any = act
    handle = pipeline.modules()[root].register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _other(value: Any) -> Any:
    """Another value: two per cent and a thousandth off."""
    if isinstance(value, tuple):
        return (value[0], value[1] * 1.02)
    return value + 1 if not value.is_floating_point() else value * 1.02 + 1e-3


def test_a_pipeline_agrees_with_itself_and_everything_that_it_hands_over_is_counted(
    pipeline: Pipeline, reference: Answers
) -> None:
    seen = judge_arguments(reference, _candidate(pipeline, reference), [0], alike=True)
    assert [e.outcome for e in seen.evidence()] == ["agrees"]
    names = {name for _, name in seen.compared}
    assert {"input_ids", "hidden_states", "encoder_hidden_states", "timestep"} <= names
    assert {"image_rotary_emb[0]", "image_rotary_emb[1]", "attention_kwargs", "z"} <= names
    counted = coverage([seen])
    assert counted.compared == counted.total == len(seen.compared) and not counted.missing


@pytest.mark.parametrize(
    "name", ["hidden_states", "encoder_hidden_states", "timestep", "image_rotary_emb"]
)
def test_every_argument_of_the_denoiser_is_named_and_no_module_is_blamed(
    name: str, pipeline: Pipeline, reference: Answers
) -> None:
    with _handed(pipeline, "transformer", lambda given: {**given, name: _other(given[name])}):
        candidate = _candidate(pipeline, reference)
    found = judge_arguments(reference, candidate, [0], alike=True).evidence()
    (wrong,) = [e for e in found if e.outcome == "differs"]
    assert wrong.setting is not None and wrong.setting.startswith(name)
    transformer = Evidence(
        stage="collapse", check="collapse.transformer", component="transformer",
        outcome="differs", detail="",
    )  # fmt: skip
    (cause,) = causes([*found, transformer], [], {})
    assert cause.name == wrong.setting and cause.block is None
    assert cause.component == ("text" if name == "encoder_hidden_states" else "loop")


def test_a_mask_that_one_side_alone_gives_is_named_where_the_text_differs_and_else_noted(
    pipeline: Pipeline, reference: Answers
) -> None:
    mask = torch.ones((1, 16), dtype=torch.long)
    with _handed(pipeline, "text_encoder", lambda given: {**given, "attention_mask": mask}):
        candidate = _candidate(pipeline, reference)
    found = judge_arguments(reference, candidate, [0], alike=True).evidence()
    (noted,) = [e for e in found if e.outcome == "noted"]
    assert noted.setting == "attention_mask"
    text = Evidence(
        stage="collapse", check="collapse.text", component="text", outcome="differs", detail=""
    )
    assert acting(found, []) == found
    (cause,) = causes([*acting(found, [text]), text], [], {})
    assert (cause.component, cause.name) == ("text", "attention_mask")


def _calls(*calls: tuple[str, str, dict[str, Any]], latents: Any = None) -> list[Called]:
    record = ArgumentRecord()
    for component, label, arguments in calls:
        record.add(Call(component, flattened(_takes, (), arguments)), label, latents)
    tensors = {i: t.numpy() for i, t in enumerate(record.tensors)}
    return read_calls(json.loads(json.dumps(record.calls)), tensors)


def _takes(**_: Any) -> None:
    """Stands for a component's forward."""


def test_a_timestep_of_another_dtype_is_noted_as_it_is_received() -> None:
    (a,) = _calls(("transformer", "0", {"timestep": torch.tensor([999, 999])}))
    (b,) = _calls(("transformer", "0", {"timestep": torch.tensor([999.0, 999.0])}))
    found = difference("timestep", a.arguments["timestep"], b.arguments["timestep"])
    assert found is not None and not found.grave
    assert found.told == "it arrives as float32, the reference's as int64"


def test_branches_in_two_calls_are_what_one_batch_is() -> None:
    text, at = torch.randn(2, 5, 8), torch.tensor([999, 999])
    table = torch.randn(7, 4)
    one = _calls(("transformer", "0", {"text": text, "t": at, "table": (table, table)}))
    two = _calls(*[
        ("transformer", "0", {"text": text[i : i + 1], "t": at[:1], "table": (table, table)})
        for i in range(2)
    ])  # fmt: skip
    other = _calls(*[
        ("transformer", "0", {"text": text[:1], "t": at[:1], "table": (table, table)})
        for _ in range(2)
    ])  # fmt: skip
    same, wrong = Seen(CHECK), Seen(CHECK)
    for seen, calls in ((same, two), (wrong, other)):
        for x, y in paired(one, calls):
            seen.compare(x, y, alike=True)
    assert [e.outcome for e in same.evidence()] == ["agrees"]
    assert [e.setting for e in wrong.evidence() if e.outcome != "agrees"] == ["text"]


def _run(change: Callable[[int, dict[str, Any]], dict[str, Any]] | None = None) -> Handed:
    from backends.base import ScheduleTable

    torch.manual_seed(0)
    latents, text = torch.randn(1, 3, 4, 2, 2), torch.randn(2, 5, 8)
    picture, table = torch.randn(2, 3, 4, 2, 2), torch.randn(7, 4)
    calls: list[Called] = []
    for step in range(3):
        given: dict[str, Any] = {
            "x": torch.cat([torch.cat([latents * (step + 1)] * 2), picture], dim=2),
            "text": text,
            "t": torch.tensor([900 - 300 * step] * 2),
            "table": table,
        }
        given = given if change is None else change(step, given)
        calls += _calls(("transformer", str(step), given), latents=latents * (step + 1))
    schedule = ScheduleTable([900, 600, 300], [0.1, 0.4, 0.8], [0.4, 0.8, 1.0])
    return Handed(calls, schedule, text.numpy())


@pytest.mark.parametrize(
    ("name", "component", "change"),
    [
        ("text", "text", lambda given: given | {"text": given["text"].roll(1, 1)}),
        ("table", "loop", lambda given: given | {"table": given["table"] * 1.001}),
        ("t", "loop", lambda given: given | {"t": given["t"] + 1}),
        ("x", "loop", lambda given: given | {"x": given["x"] * 1.01}),
        (
            "x, beside the latents",
            "image_encoder",
            lambda given: given | {"x": given["x"] * torch.tensor([1.0] * 4 + [0.0] * 4)
                                   .view(1, 1, 8, 1, 1)},
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("step", [0, 1, 2])
def test_what_one_call_of_a_native_run_was_given_is_found_at_its_step(
    step: int, name: str, component: str, change: Callable[[Any], Any]
) -> None:
    """An unprobed step included; whatever the latents of the two runs have become."""
    wrong = _run(lambda k, given: change(given) if k == step else given)
    roles = {"text": "text", "timestep": "t"}
    seen = judge_native_arguments("candidate", _run(), wrong, (roles, roles), alike=True)
    found = [e for e in seen.evidence() if e.outcome == "differs"]
    assert (found[0].setting, found[0].component, found[0].step) == (name, component, step)
    right = judge_native_arguments("candidate", _run(), _run(), (roles, roles), alike=True)
    assert [e.outcome for e in right.evidence()] == ["agrees"]


def test_a_render_without_recorded_arguments_is_counted_as_not_compared() -> None:
    seen = judge_native_arguments("candidate", None, _run(), ({}, {}), alike=True)
    assert coverage([seen]).missing and not seen.evidence()


def test_two_embeddings_in_one_buffer_are_exported(tmp_path: Path, pipeline: Pipeline) -> None:
    worker = Worker()
    both = torch.randn(2, 3, 4)

    class Views:
        text, negative_text = both[1:], both[:1]
        schedule = pipeline.prepare(CASE, Inputs()).schedule

    class Stub:
        def prepare(self, *_: Any) -> Any:
            return Views()

        def policies(self) -> Any:
            return pipeline.policies()

    worker._pipeline = Stub()  # type: ignore[assignment]  # pyright: ignore
    worker.export(CASE.__dict__, str(tmp_path / "inputs.safetensors"))
    written = load_file(tmp_path / "inputs.safetensors")
    assert np.array_equal(written["text"], both[1:])
