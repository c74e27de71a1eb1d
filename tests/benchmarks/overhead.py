"""What the harness adds: to a render of a model of more than 100 M parameters, and to a sweep.

    python tests/benchmarks/overhead.py [--steps 50] [--direct 3]

A few percent of a long render drown in what else a machine does. So what is added is measured alone: the
whole of `harness.render.runner.render` (noise tape, traces, lossless video, preview, checksums,
record) around a pipeline that computes nothing but has the real one's latents, draws and frames. Its
seconds of computing are then set against those of the bare pipeline. Both are also run in turns, for
`--direct` rounds.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from rows import Row, Seconds, in_turns, met, met_twice, once, ratio, say, typical

from backends.base import Inputs, Prediction
from backends.micro import model_path
from backends.worker.worker import Worker, carry_out
from harness.config.compose import compose_tree
from harness.config.config import build
from harness.config.folders import conf_folders
from harness.render.plan import Plan, make_plan
from harness.render.runner import ExecutionSettings, render
from harness.store.store import Store
from harness.workers.connect import Connection

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "sweeps"), str(ROOT / "tests" / "sweeps" / "fake")]

AREA = "overhead"
BASE = "micro-5b"
PROMPT = "a red circle moving left on a white background"
FRAMES, SIDE_PX = 17, 64
LATENTS = (1, 5, 16, 8, 8)
RENDERS = 6


class _Quiet:
    def start(self, total: int) -> None: ...
    def render_started(self, label: str) -> None: ...
    def render_finished(self, label: str, status: str, seconds: float) -> None: ...


def save_large(folder: Path) -> int:
    """A micro pipeline whose transformer is larger, with random weights; its number of parameters."""
    pipe: Any = CogVideoXPipeline.from_pretrained(model_path(BASE), torch_dtype=torch.float32)
    settings = {k: v for k, v in pipe.transformer.config.items() if not k.startswith("_")}
    settings |= {"num_attention_heads": 16, "attention_head_dim": 64, "num_layers": 8}
    torch.manual_seed(0)
    pipe.transformer = CogVideoXTransformer3DModel(**settings)
    pipe.save_pretrained(folder)
    return sum(parameter.numel() for parameter in pipe.transformer.parameters())


def bare(pipe: Any, steps: int) -> None:
    """What a user of Diffusers runs."""
    pipe(
        prompt=PROMPT, negative_prompt="", height=SIDE_PX, width=SIDE_PX, num_frames=FRAMES,
        num_inference_steps=steps, guidance_scale=6.0, use_dynamic_cfg=True,
        generator=torch.Generator().manual_seed(0), output_type="np",
        max_sequence_length=pipe.transformer.config.max_text_seq_length,
    )  # fmt: skip


class Idle:
    """Stands in for an open pipeline: draws, steps and frames as the real one's, and no computing."""

    def __init__(self) -> None:
        from parity_fake import FakeBackend

        self._like = FakeBackend().open(BASE, {})
        self._frames = torch.rand(FRAMES, SIDE_PX, SIDE_PX, 3)
        self.identity, self.policies = self._like.identity, self._like.policies

    def prepare(self, case: Any, inputs: Inputs) -> Any:
        return self._like.prepare(case, inputs)

    def render(self, case: Any, inputs: Inputs, tape: Any, observe: Any) -> torch.Tensor:
        with tape.stage("initial", 0, 1, 1, LATENTS):
            latents = torch.from_numpy(tape.draw(LATENTS))
        for step in range(case.steps):
            with tape.stage("step", step, 2, 2, LATENTS):
                noise = [torch.from_numpy(tape.draw(LATENTS)) for _ in range(2)]
            observe(step, 999 - step, latents, Prediction(noise[0], noise[0], 6.0), noise[1])
            latents = noise[1]
        return self._frames

    def close(self) -> None: ...


class Harness:
    """Renders seed after seed into a store, with the worker in this process and its model kept open."""

    def __init__(self, model: str, folder: Path, steps: int, pipeline: Any = None) -> None:
        overrides = [
            "case=[micro_5b]", "reference=diffusers", "candidate=[sat]", "judge.rerun=false",
            f"cases.micro_5b.model={model}", f"cases.micro_5b.steps={steps}",
            f"store={folder}/store", f"results={folder}/results",
        ]  # fmt: skip
        self._tree = compose_tree(overrides, conf_folders(None))
        self._store = Store(folder / "store")
        self._settings = ExecutionSettings(3600.0, (), folder / "run", self._connect)
        self._connection = _StaysOpen(pipeline)
        self._seed = 0

    @contextmanager
    def _connect(self, *_: object) -> Iterator[Connection]:
        yield self._connection

    def render(self, count: int = 1) -> None:
        """Render the next seeds; opening and closing the model is not part of it."""
        seeds = list(range(self._seed, self._seed + count))
        self._seed += count
        plan = make_plan(build({**self._tree, "seeds": seeds}))
        jobs = tuple(job for job in plan.jobs if job.role == "reference")
        for _, record in render(Plan(jobs), self._store, self._settings, _Quiet()):
            assert record.status == "ok", record.message


class _StaysOpen:
    """Answers as a worker, but opens its model only once, and not at all if it gets a pipeline."""

    def __init__(self, pipeline: Any) -> None:
        self._worker = Worker()
        self._opened: Any = None
        if pipeline is not None:
            self._worker._pipeline = pipeline
            self._opened = {
                "identity": vars(pipeline.identity()), "policies": vars(pipeline.policies()),
                "open_s": 0.0, "threads": 1,
            }  # fmt: skip

    def call(self, op: str, timeout_s: float, **arguments: Any) -> Any:
        if op == "open" and self._opened is not None:
            return self._opened
        answer = carry_out(self._worker, op, arguments)
        assert answer["ok"], answer
        if op == "open":
            self._opened = answer["result"]
        return answer["result"]


def renders(folder: Path, steps: int, rounds: int) -> Iterator[Row]:
    """The seconds of computing of a bare render, and those that the harness adds."""
    large = folder / "large"
    size = save_large(large)
    pipe: Any = CogVideoXPipeline.from_pretrained(large, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    runs = {"bare": functools.partial(bare, pipe, steps)}
    if rounds:
        ours = Harness(str(large), folder / "whole", steps)
        ours.render()  # opens the model
        runs["ours"] = ours.render
    found = in_turns(runs, max(1, rounds))
    yield from added(folder, size, found["bare"], steps)
    if rounds:
        direct = ratio(found, "ours", "bare", "cpu") - 1
        yield Row(AREA, "the same, as the median ratio of whole renders in turns", f"{direct:+.1%}",
                  "at most 3 %", met(direct <= 0.03))  # fmt: skip


def added(folder: Path, size: int, alone: list[Seconds], steps: int) -> Iterator[Row]:
    """What the harness adds to renders that take as long as `alone`."""
    idle = Harness(BASE, folder / "idle", steps, Idle())
    idle.render()  # exports the inputs, and imports what is imported late
    each = once(lambda: idle.render(RENDERS)).cpu / RENDERS
    bare_s = typical(alone, "cpu")
    case = f"{size / 1e6:.0f} M parameters, {steps} steps, {FRAMES}x{SIDE_PX}x{SIDE_PX}"
    yield Row(AREA, f"bare pipeline, {case}: a render", f"{bare_s:.1f} s of computing")
    yield Row(
        AREA, f"what the harness adds to a render, trace included (mean of {RENDERS})",
        f"{each:.2f} s of computing, {each / bare_s:.1%}", "at most 3 %", met(each / bare_s <= 0.03),
    )  # fmt: skip


def sweep(folder: Path) -> Iterator[Row]:
    """A sweep of 24 jobs over 3 variants: how often a worker opens a model; and started again."""
    from sweeping import noted
    from sweeping import sweep as start

    seeds = "seeds=" + ",".join(map(str, range(12)))
    root = folder / "sweep"
    first = once(lambda: start(root, seeds))
    opened = [n for what, n in noted(root / "log").items() if what.startswith("open")]
    done = sum(n for what, n in noted(root / "log").items() if what.startswith("render"))
    yield Row(
        AREA, "24 jobs over 3 variants, one worker a variant: times that each opened its model",
        f"{' / '.join(map(str, opened))}; {done} renders in {first.wall:.0f} s",
        "1 / 1 / 1", met(opened == [1, 1, 1] and done == 36),
    )  # fmt: skip
    again = once(lambda: start(root, seeds))
    yield Row(
        AREA, "the same sweep started again",
        f"{again.wall:.1f} s on the clock, {again.cpu:.1f} s of computing",
        "within 5 s", met_twice(again.wall <= 5, again.cpu <= 5),
    )  # fmt: skip


def main() -> None:
    """Measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--direct", type=int, default=3, metavar="ROUNDS")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        say([*sweep(folder), *renders(folder, asked.steps, asked.direct)])


if __name__ == "__main__":
    main()
