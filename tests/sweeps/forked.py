"""Sweeps in forked processes: torch is imported once, so a sweep of the fake backend takes a second.

What runs is `harness.verdict.session.run` for every job, as a sweep's launcher calls it, with the worker
inside the process: killing the process kills everything at once.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import safetensors.torch  # noqa: F401 -- here, so that no moment of a sweep goes by in importing torch
from imageio_ffmpeg import get_ffmpeg_exe
from sweeping import FAKE, content

from harness.config.compose import compose_tree
from harness.config.config import build
from harness.config.folders import conf_folders
from harness.render.plan import make_plan
from harness.render.runner import SweepShare, now
from harness.store.store import content_key
from harness.verdict import session
from harness.workers.connect import in_process

get_ffmpeg_exe()
"""A worker inside the process reads what the process imports: all that a run imports, before it."""


class _Quiet:
    def start(self, total: int) -> None: ...
    def render_started(self, label: str) -> None: ...
    def render_finished(self, label: str, status: str, seconds: float) -> None: ...


def configs(root: Path, seeds: int) -> list:
    """The jobs of a sweep: two candidates and `seeds` seeds each, one at a time."""
    if str(FAKE) not in sys.path:
        sys.path.insert(0, str(FAKE))
    folders = conf_folders(FAKE / "conf")
    common = ["case=[instant]", "reference=fake", f"store={root}/store", f"results={root}/results"]
    trees = [
        compose_tree([*common, f"candidate=[{name}]"], folders) for name in ("fake_a", "fake_b")
    ]
    return [build({**tree, "seeds": [seed]}) for tree in trees for seed in range(seeds)]


def run_here(jobs: list) -> None:
    """Carry out all jobs in this process."""
    renders = {content_key(asdict(r)): r for job in jobs for r in make_plan(job).jobs}
    share = SweepShare(now(), tuple(renders.values()))
    for job in jobs:
        session.run(job, (), (), _Quiet(), "render", connect=in_process, sweep=share)


def forked(jobs: list, kill_after_s: float | None = None) -> bool:
    """Carry out all jobs in a forked process; False if it was killed before it was done."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run_here(jobs)
            code = 0
        finally:
            os._exit(code)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, "the sweep failed"
    return os.WIFEXITED(status)


def kill_often(folder: Path, kills: int, seeds: int, choice: random.Random) -> Iterator[str]:
    """Kill sweeps at `kills` random moments; compare each resumed store with an undisturbed one.

    Yields a line for every kill and every comparison. Raises: AssertionError, when a store differs.
    """
    jobs = configs(folder / "undisturbed", seeds)
    started = time.monotonic()
    assert forked(jobs)
    took_s = time.monotonic() - started
    expected = content(folder / "undisturbed")
    yield f"undisturbed: {took_s:.2f} s, {len(expected)} files"
    done = round_ = 0
    while done < kills:
        round_ += 1
        root = folder / f"round-{round_}"
        jobs = configs(root, seeds)
        for _ in range(choice.randint(1, 3)):
            moment = choice.uniform(0, took_s)
            finished = forked(jobs, moment)
            done += not finished
            kept = len(content(root)) if (root / "store").is_dir() else 0
            how = "had ended" if finished else "killed"
            yield f"kill {done}, round {round_}: {how} after {moment:.3f} s; {kept} files in place"
        assert forked(jobs)
        assert content(root) == expected, f"round {round_}: the resumed store differs"
        yield f"round {round_}: resumed, equal to the undisturbed store in all {len(expected)} files"


def main(folder: str, kills: str, seeds: str, choice: str) -> None:
    """`kill_often` in a process that has done nothing else: what a worker inside a process has read
    includes all that the process did before, other tests among it."""
    for line in kill_often(Path(folder), int(kills), int(seeds), random.Random(int(choice))):
        print(line, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
