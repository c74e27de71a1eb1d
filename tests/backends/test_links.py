"""The links of a run, asked one by one: put together they are the run, and none acts for another."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from backends import registry
from backends.base import Case, Inputs, Pipeline
from backends.errors import InvalidRequest
from backends.stages.answers import Answers, answer
from backends.stages.questions import Question

CASE = Case(
    name="tiny", model="micro-2b", prompt="a red circle moving left", negative_prompt="", frames=9,
    height=64, width=64, steps=3, guidance_scale=6.0, dynamic_guidance=False, sampler="dpm", fps=8,
)  # fmt: skip
STEPS = (0, 1, 2)


@pytest.fixture(scope="module", params=["diffusers", "sat"])
def pipeline(request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    opened = registry.load(request.param).open("micro-2b", {"device": "cpu"})
    yield opened
    opened.close()


def _ask(pipeline: Pipeline, given: dict[str, Tensor], *questions: Question) -> Answers:
    with torch.no_grad():
        return answer(pipeline, CASE, Inputs(), questions, given)


def test_links_put_together_are_the_whole_run(pipeline: Pipeline) -> None:
    questions, source = [Question("run", "run"), Question("x", "own")], "x"
    for step in STEPS:
        made = tuple(f"g{k}" for k in STEPS[: step + 1])
        questions += [
            Question(f"p{step}", "predict", steps=(step,), source=source),
            Question(f"g{step}", "guide", steps=(step,), sources=(source, f"p{step}")),
            Question(f"a{step}", "advance", steps=STEPS[: step + 1], source="x", sources=made,
                     until=step + 1),
        ]  # fmt: skip
        source = f"a{step}"
    start = _ask(pipeline, {}, Question("x", "own")).tensors["x.initial"]
    found = _ask(pipeline, {"x.0.in": start}, *questions)
    assert found.guided_calls == 2 * len(STEPS)  # those of the whole run and of the predictions
    for step in STEPS:
        by_itself = found.tensors[f"g{step}.{step}.velocity"]
        torch.testing.assert_close(
            by_itself, found.tensors[f"p{step}.{step}.velocity"].float(), rtol=1e-4, atol=1e-5
        )
    torch.testing.assert_close(
        found.tensors["a2.3.in"], found.tensors["run.final"], rtol=1e-4, atol=1e-4
    )


def test_guidance_asked_alone_ignores_what_is_wrong_in_the_transformer(pipeline: Pipeline) -> None:
    start = _ask(pipeline, {}, Question("x", "own")).tensors["x.initial"]
    predict = Question("p", "predict", steps=(0,), source="x")
    guide = Question("g", "guide", steps=(0,), sources=("x", "p"))
    right = _ask(pipeline, {"x.0.in": start}, predict, guide)
    given = {"x.0.in": start, "p.0.branches": right.tensors["p.0.branches"]}
    transformer = pipeline.modules()["transformer"]

    def double(_module: object, _args: object, output: Tensor | tuple[Tensor]) -> object:
        return 2 * output if isinstance(output, Tensor) else (2 * output[0],)

    handle = transformer.register_forward_hook(double)
    try:
        wrong = _ask(pipeline, given, guide, predict)
    finally:
        handle.remove()
    assert torch.equal(wrong.tensors["g.0.velocity"], right.tensors["g.0.velocity"])
    assert not torch.equal(wrong.tensors["p.0.velocity"], right.tensors["p.0.velocity"])


def test_branches_that_do_not_fit_are_refused(pipeline: Pipeline) -> None:
    start = _ask(pipeline, {}, Question("x", "own")).tensors["x.initial"]
    guide = Question("g", "guide", steps=(0,), sources=("x", "p"))
    with pytest.raises(InvalidRequest, match="1 branches stand in"):
        _ask(pipeline, {"x.0.in": start, "p.0.branches": start}, guide)


def test_another_images_latents_reach_the_transformer() -> None:
    case = replace(
        CASE, model="micro-1.5-5b-i2v", image="micro:red-circle.png", height=32, width=32
    )
    opened = registry.load("diffusers").open(case.model, {"device": "cpu"})
    first = answer(opened, case, Inputs(), [Question("x", "own")], {}).tensors
    given = {"x.0.in": first["x.initial"], "own": first["x.image"], "none": 0 * first["x.image"]}
    asked = Question("p", "predict", steps=(0,), source="x")
    questions = [asked, replace(asked, id="q", image="own"), replace(asked, id="r", image="none")]
    with torch.no_grad():
        found = answer(opened, case, Inputs(), questions, given).tensors
    assert torch.equal(found["p.0.velocity"], found["q.0.velocity"])
    assert not torch.equal(found["p.0.velocity"], found["r.0.velocity"])
    opened.close()
    text_only = registry.load("diffusers").open("micro-2b", {"device": "cpu"})
    with pytest.raises(InvalidRequest, match="takes no image"):
        _ask(text_only, given, questions[1])
    text_only.close()
