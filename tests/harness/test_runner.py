"""Whatever happens to a worker becomes a record, and nothing that is known is rendered twice."""

import dataclasses
from pathlib import Path

import pytest

from backends.base import Case, TraceOptions, Variant
from harness.render.plan import Plan, RenderJob
from harness.render.runner import ExecutionSettings, render
from harness.store.store import Store
from harness.verdict.result import Renders, judge_pair
from harness.verdict.scoring import stored_distances

CASE = Case(
    name="tiny", model="micro-2b", prompt="a red circle moving left on a white background",
    negative_prompt="", frames=5, height=32, width=32, steps=2, guidance_scale=6.0,
    dynamic_guidance=False, sampler="ddim", fps=8,
)  # fmt: skip


class Silent:
    """Counts what was rendered now."""

    def __init__(self) -> None:
        self.fresh = 0

    def start(self, total: int) -> None: ...
    def render_started(self, label: str) -> None: ...
    def render_finished(self, label: str, status: str, seconds: float) -> None:
        self.fresh += "from the store" not in status


def _job(role: str = "candidate", patch: str | None = None, **changes) -> RenderJob:
    name = changes.pop("name", patch or role)
    job = RenderJob(
        role=role, case=CASE, variant=Variant(name, "diffusers", {"dtype": "float32"}, patch),
        python=None, threads=1, seed=0, repeat=0,
        share=() if role == "reference" else ("text", "unconditional", "schedule", "latent_dtype"),
        trace=TraceOptions([0, 1]),
    )  # fmt: skip
    return dataclasses.replace(job, **changes)


def _render(tmp_path: Path, jobs: list[RenderJob], timeout_s: float = 120):
    store, sink = Store(tmp_path / "store"), Silent()
    settings = ExecutionSettings(timeout_s, ("tests.harness.saboteurs",), tmp_path / "run")
    results = render(Plan(tuple(jobs)), store, settings, sink)
    return store, [record for _, record in results], sink


def test_a_crash_an_exception_and_a_stray_draw_are_records(tmp_path: Path) -> None:
    jobs = [_job("reference"), *(_job(patch=p) for p in ("die", "raise", "draw_once_more"))]
    jobs += [_job(name="healthy")]
    store, records, _ = _render(tmp_path, jobs)
    assert [r.status for r in records] == ["ok", "error", "error", "error", "ok"]
    assert "exit code 7" in records[1].message
    assert "tripped over itself" in records[2].message
    assert "Traceback" in records[2].trace
    assert "outside any sampling stage" in records[3].message
    assert records[3].trace is None
    assert records[0].frames == records[4].frames
    pair = judge_pair(store, Renders(records[:1], [], records[1:2]), {"psnr": {}})
    assert pair.verdict == "error"


def test_nothing_is_rendered_twice_and_failures_are_tried_again(tmp_path: Path) -> None:
    jobs = [_job("reference"), _job(patch="raise")]
    _, first, sink = _render(tmp_path, jobs)
    assert sink.fresh == 2
    _, second, sink = _render(tmp_path, jobs)
    assert sink.fresh == 1
    assert second[0] == first[0]


def test_a_hang_ends_at_the_time_limit(tmp_path: Path) -> None:
    _render(tmp_path, [_job("reference")])
    _, records, _ = _render(tmp_path, [_job("reference"), _job(patch="hang")], timeout_s=25)
    assert [r.status for r in records] == ["ok", "error"]
    assert "longer than 25 s" in records[1].message


def test_not_finite_latents_are_broken_with_their_first_step(tmp_path: Path) -> None:
    store, records, _ = _render(tmp_path, [_job("reference"), _job(patch="nan")])
    assert records[1].frames.non_finite > 0
    pair = judge_pair(store, Renders(records[:1], [], records[1:]), {"psnr": {}})
    assert pair.verdict == "broken"
    assert "candidate, seed 0: not finite from step 0 on (timestep 999)" in pair.reasons[0]


def test_without_a_reference_nothing_is_compared(tmp_path: Path) -> None:
    bad = dataclasses.replace(_job("reference"), case=dataclasses.replace(CASE, height=30))
    _, records, _ = _render(tmp_path, [bad, dataclasses.replace(_job(), case=bad.case)])
    assert [r.status for r in records] == ["error", "not_run"]
    assert "30" in records[0].message


def test_an_interpreter_that_is_not_there_is_an_error_record(tmp_path: Path) -> None:
    _, records, _ = _render(tmp_path, [_job("reference", python="/no/such/python")])
    assert records[0].status == "error"
    assert "set `python`" in records[0].message


@pytest.mark.parametrize("field", ["seed", "threads", "repeat"])
def test_what_a_render_depends_on_changes_its_key(tmp_path: Path, field: str) -> None:
    jobs = [_job("reference"), _job("reference", name="other", **{field: 2})]
    _, records, _ = _render(tmp_path, jobs)
    assert records[0].key != records[1].key


def test_thread_count_changes_rounding_at_most(tmp_path: Path) -> None:
    jobs = [_job("reference"), _job("reference", name="two threads", threads=2)]
    store, (one, two), _ = _render(tmp_path, jobs)
    assert one.tape_digest == two.tape_digest
    distance = stored_distances(store, one, two).latents_rel_l2
    assert distance is not None
    assert distance <= 1e-5
