"""Run every benchmark, one after the other, and write what they found to RESULTS.md.

    python tests/benchmarks/bench.py [NAME ...]

`make bench` does this after installing the extra `bench`. With names only those run, and the rows of the
others stay as they are.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rows import ROWS_FILE, met

HERE = Path(__file__).parent
NAMES = ("metrics", "overhead", "store", "kills")
PACKAGES = (
    "torch", "diffusers", "numpy", "opencv-python-headless", "scikit-image", "lpips",
    "torchmetrics", "pytorch-msssim", "imageio-ffmpeg",
)  # fmt: skip
TABLE, KEPT = HERE / "RESULTS.md", HERE / "results.json"


def main() -> int:
    """Run, keep the rows, write the table; 1 when a target was missed."""
    names = sys.argv[1:] or NAMES
    kept: dict[str, dict[str, object]] = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    environment = dict(os.environ, TOKENIZERS_PARALLELISM="false")
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    for name in names:
        before = os.getloadavg()[0]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.json"
            subprocess.run(
                [sys.executable, str(HERE / f"{name}.py")],
                env={**environment, ROWS_FILE: str(path)}, check=True,
            )  # fmt: skip
            found = json.loads(path.read_text())
        kept[name] = {
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "load": [round(before, 1), round(os.getloadavg()[0], 1)],
            "machine": machine(), "versions": versions(), "rows": found,
        }  # fmt: skip
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
        TABLE.write_text(table(kept))
    rows = [row for part in kept.values() for row in part["rows"]]  # type: ignore[attr-defined]
    return int(any(row["met"] == met(False) for row in rows))


def machine() -> str:
    """Processor, cores and memory."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    fields = dict(line.split("\t: ", 1) for line in info.splitlines() if "\t: " in line)
    fields = {name.strip(): value for name, value in fields.items()}
    name = fields.get("model name", platform.processor() or platform.machine())
    if "cpu family" in fields:
        name += f" family {fields['cpu family']} model {fields['model']}"
    cores = len(os.sched_getaffinity(0))
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{name}, {cores} cores, {gib:.0f} GiB, no GPU used"


def versions() -> str:
    """Of Python and of what was measured or compared."""
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join(found)


def table(kept: dict[str, dict[str, object]]) -> str:
    """RESULTS.md."""
    lines = [
        "# What was measured",
        "",
        "`make bench` writes this file. What is compared ran in turns in one process, and ratios are",
        "medians over the rounds; seconds of one machine say little about another's. *Load* is the",
        "machine's load average before and after: above the number of cores, others were at work on it,",
        "and then seconds of computing (of this process and its children) say more than the clock.",
    ]
    for name, part in kept.items():
        before, after = part["load"]  # type: ignore[misc]
        lines += [
            "", f"## {name}", "",
            f"{part['date']}; {part['machine']}; load {before} to {after}.", "",
            f"{part['versions']}.", "",
            "| what | measured | target | met |", "|---|---|---|---|",
        ]  # fmt: skip
        for row in part["rows"]:  # type: ignore[attr-defined]
            lines.append("| {what} | {measured} | {target} | {met} |".format(**row))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
