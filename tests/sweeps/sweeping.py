"""Run sweeps over the fake backend as a user would, in processes of their own, and look at stores."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import harness

FAKE = Path(__file__).parent / "fake"
ROOT = Path(harness.__file__).parents[1]
MEASURED = ("created", "open_s", "render_s", "peak_gib")
"""What a record says of the clock and the machine's load; all else must be equal bit for bit."""


def environment(root: Path, delay_s: float = 0.0) -> dict[str, str]:
    """The present one, in which the fake backend is installed and writes to `root/log`."""
    root.mkdir(exist_ok=True)
    return dict(
        os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(FAKE)]), OMP_NUM_THREADS="1",
        PARITY_INERT_VARIABLES="PARITY_FAKE_LOG,PARITY_FAKE_DELAY_S",
        PARITY_FAKE_LOG=str(root / "log"), PARITY_FAKE_DELAY_S=str(delay_s),
    )  # fmt: skip


def command(root: Path, *settings: str) -> list[str]:
    """A sweep over two variants; the store and all else lie below `root`."""
    return [
        sys.executable, "-m", "harness", "render", "-m", "--config-dir", str(FAKE / "conf"),
        "case=[instant]", "reference=fake", "candidate=[fake_a],[fake_b]",
        "judge.rerun=false",
        f"store={root}/store", f"results={root}/results", *settings,
    ]  # fmt: skip


def start(root: Path, *settings: str, delay_s: float = 0.0) -> subprocess.Popen[str]:
    """Start it, in the background."""
    return subprocess.Popen(
        command(root, *settings), env=environment(root, delay_s), cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def sweep(root: Path, *settings: str) -> tuple[int, str]:
    """Run it to its end; return its exit code and what it said."""
    process = start(root, *settings)
    out, err = process.communicate()
    return process.returncode, out + err


def content(root: Path) -> dict[str, str]:
    """Every finished file of the store with the hash of its bytes, without what the clock decides."""
    store, found = root / "store", {}
    for path in sorted(store.rglob("*")):
        place = path.relative_to(store)
        if path.is_dir() or place.parts[0] not in ("renders", "inputs", "pipelines"):
            continue
        text = path.read_bytes()
        if path.name == "record.json":
            record = json.loads(text)
            text = json.dumps({k: v for k, v in record.items() if k not in MEASURED}).encode()
        elif path.name == "SHA256SUMS":
            text = b"".join(line for line in text.splitlines(True) if b"record.json" not in line)
        found[str(place)] = hashlib.sha256(text).hexdigest()
    return found


def noted(log: Path) -> Counter[str]:
    """How often each thing was opened or rendered to its end, by whichever process."""
    return Counter(line.partition(" ")[2] for line in log.read_text().splitlines())
