"""What the harness adds: to a render of a model of more than 100 M parameters, and to a sweep.

    python tests/benchmarks/overhead.py [--rounds 5] [--steps 50]

The bare pipeline and the whole of `harness.runner.render` (identity of the render, noise tape, trace,
lossless video, preview, checksums, record) take turns in one process, each with an open model.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from rows import Row, Seconds, in_turns, once, ratio, say, typical

from backends.micro import model_path
from backends.worker import Worker, carry_out
from harness.compose import compose_tree
from harness.config import build
from harness.connect import Connection
from harness.folders import conf_folders
from harness.plan import Plan, make_plan
from harness.runner import ExecutionSettings, render
from harness.store import Store

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "sweeps"))

AREA = "overhead"
BASE = "micro-5b"
PROMPT = "a red circle moving left on a white background"
FRAMES, SIDE_PX = 17, 64


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
    )  # fmt: skip


class Harness:
    """Renders one seed after the other, with the worker in this process and its model kept open."""

    def __init__(self, model: str, folder: Path, steps: int) -> None:
        overrides = [
            "case=[micro_5b]", "reference=diffusers", "candidate=[sat]", "judge.rerun=false",
            f"cases.micro_5b.model={model}", f"cases.micro_5b.steps={steps}",
            f"store={folder}/store", f"results={folder}/results",
        ]  # fmt: skip
        self._tree = compose_tree(overrides, conf_folders(None))
        self._store = Store(folder / "store")
        self._settings = ExecutionSettings(3600.0, (), folder / "run", self._connect)
        self._connection = _StaysOpen()
        self._seed = 0

    @contextmanager
    def _connect(self, *_: object) -> Iterator[Connection]:
        yield self._connection

    def render(self) -> None:
        """Render the next seed into the store; opening and closing the model is not part of it."""
        plan = make_plan(build({**self._tree, "seeds": [self._seed]}))
        self._seed += 1
        jobs = tuple(job for job in plan.jobs if job.role == "reference")
        ((_, record),) = render(Plan(jobs), self._store, self._settings, _Quiet())
        assert record.status == "ok", record.message


class _StaysOpen:
    """Answers as a worker, but opens its model only once."""

    def __init__(self) -> None:
        self._worker = Worker()
        self._opened: Any = None

    def call(self, op: str, timeout_s: float, **arguments: Any) -> Any:
        if op == "open" and self._opened is not None:
            return self._opened
        answer = carry_out(self._worker, op, arguments)
        assert answer["ok"], answer
        if op == "open":
            self._opened = answer["result"]
        return answer["result"]


def renders(folder: Path, rounds: int, steps: int) -> Iterator[Row]:
    """The time of a render through the harness, and of the bare pipeline."""
    large = folder / "large"
    size = save_large(large)
    added = statistics.median(
        a.cpu - b.cpu
        for a, b in zip(*_turns(BASE, model_path(BASE), folder / "micro", 3, steps), strict=True)
    )
    ours, alone = _turns(str(large), large, folder / "large-store", rounds, steps)
    once_s = typical(alone, "cpu")
    what = f"a model of {size / 1e6:.0f} M parameters, {steps} steps, {FRAMES}x{SIDE_PX}x{SIDE_PX}"
    yield Row(AREA, f"bare pipeline, {what}: seconds of computing a render", f"{once_s:.1f} s")
    share = added / once_s
    yield Row(
        AREA, f"what the harness adds to it (measured on {BASE}: equal latents, steps and frames)",
        f"{added:.2f} s, {share:.1%}", "at most 3 %", share <= 0.03,
    )  # fmt: skip
    if ours:
        direct = ratio({"ours": ours, "bare": alone}, "ours", "bare", "cpu") - 1
        yield Row(AREA, "the same, as the median ratio of whole renders in turns", f"{direct:+.1%}",
                  "at most 3 %", direct <= 0.03)  # fmt: skip


def _turns(
    model: str, path: Path, folder: Path, rounds: int, steps: int
) -> tuple[list[Seconds], list[Seconds]]:
    """Renders through the harness and bare ones in turns; without rounds one bare render."""
    pipe: Any = CogVideoXPipeline.from_pretrained(path, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    runs = {"bare": functools.partial(bare, pipe, steps)}
    if not rounds:
        return [], in_turns(runs, 1)["bare"]
    ours = Harness(model, folder, steps)
    ours.render()  # opens the model
    found = in_turns({"ours": ours.render, **runs}, rounds)
    return found["ours"], found["bare"]


def sweep(folder: Path) -> Iterator[Row]:
    """A sweep of 24 jobs over 3 variants: how often a worker opens a model; and started again."""
    from sweeping import noted
    from sweeping import sweep as start

    seeds = "seeds=" + ",".join(map(str, range(12)))
    first = once(lambda: start(folder / "sweep", seeds))
    log = folder / "sweep" / "log"
    opened = {what: n for what, n in noted(log).items() if what.startswith("open")}
    done = sum(n for what, n in noted(log).items() if what.startswith("render"))
    yield Row(
        AREA, "24 jobs over 3 variants: models opened by each variant's worker",
        " / ".join(str(n) for n in opened.values()) + f"; {done} renders, {first.wall:.0f} s",
        "1 / 1 / 1", sorted(opened.values()) == [1, 1, 1] and done == 36,
    )  # fmt: skip
    again = once(lambda: start(folder / "sweep", seeds))
    yield Row(
        AREA, "the same sweep started again",
        f"{again.wall:.1f} s on the clock, {again.cpu:.1f} s of computing",
        "within 5 s", again.cpu <= 5,
    )  # fmt: skip


def main() -> None:
    """Measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="0: no direct comparison")
    parser.add_argument("--steps", type=int, default=50)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        say([*sweep(folder), *renders(folder, asked.rounds, asked.steps)])


if __name__ == "__main__":
    main()
