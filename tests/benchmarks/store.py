"""A store of ten thousand renders: listing, finding, checking, exporting, and the report of one run."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rows import Row, met_twice, say

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
COUNT = 10_000


def fill(root: Path) -> None:
    """A run with its renders, and copies of one render's record under other keys."""
    from harness.records import RenderRecord
    from tests.report.synthetic_runs import demo

    run = demo(root)
    run.save()
    store, like = run.store, next(r for r in run.store.renders() if r.status == "ok")
    step = {
        "step": 0, "timestep": 999, "guidance_scale": 6.0, "velocity_digest": "0" * 64,
        "latents_digest": "1" * 64, "velocity_finite": True, "latents_finite": True,
    }  # fmt: skip
    for number in range(COUNT):
        key = hashlib.sha256(str(number).encode()).hexdigest()
        changes = {"key": key, "seed": number, "steps": [step | {"step": at} for at in range(50)]}
        record = RenderRecord.model_validate(like.model_dump() | changes)
        with store.staged("renders", key) as folder:
            (folder / "record.json").write_text(record.model_dump_json(indent=1))
            (folder / "trace.safetensors").write_bytes(b"\0" * 20_000)


def timed(*line: str) -> tuple[float, float]:
    """Seconds on the clock, and seconds of computing, of one command."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    command = [sys.executable, "-m", "harness", *line]
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - started, used


def measure(root: Path) -> dict[str, tuple[float, float]]:
    """Every verb that walks the store, on one of `COUNT` renders."""
    store, results = ["--store", str(root / "store")], str(root)
    (run,) = (root / "runs").iterdir()
    (root / "store" / "index.json").unlink(missing_ok=True)
    return {
        "`parity ls`, no index yet": timed("ls", *store),
        "`parity ls`": timed("ls", *store),
        "`parity report` of a run": timed("report", str(run), *store),
        "`parity verify`": timed("verify", *store),
        "`parity export`": timed("export", *store, "--results", results, "--to", results + "/out"),
        "`parity gc --unused --dry-run`": timed(
            "gc", *store, "--unused", "--dry-run", "--results", results
        ),
    }


def main() -> None:
    """Fill a store, measure, print JSON."""
    folder = Path(tempfile.mkdtemp())
    try:
        fill(folder)
        found = measure(folder)
    finally:
        shutil.rmtree(folder)
    limits = {"`parity ls`": 5.0, "`parity report` of a run": 5.0}
    say([
        Row("store", f"{what}, {COUNT:,} renders", f"{wall:.1f} s, {used:.1f} s of computing",
            f"within {limits[what]:g} s" if what in limits else "",
            met_twice(wall <= limits[what], used <= limits[what]) if what in limits else "")
        for what, (wall, used) in found.items()
    ])  # fmt: skip


if __name__ == "__main__":
    main()
