"""Audit full-size random 5B checkpoints of both formats, and read the same files with `cat`.

    python tests/benchmarks/audit_full_size.py [FOLDER]

Needs 23 GB in FOLDER (default: a temporary one), which are deleted at the end. Every run starts with
the files dropped from the page cache. Prints a Markdown table; AUDIT_FULL_SIZE.md keeps the figures.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import safetensors
import torch
from full_size import LAYERS, write_both
from safetensors import safe_open

from backends.checkpoints.config_keys import CONFIG_FILES
from backends.checkpoints.diffusers.config import read_configs
from backends.micro import model_path

_SWAPPED = 17


def main() -> None:
    """Write, measure, damage, measure again, clean up."""
    home = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.gettempdir())
    folder = home / "parity-full-size"
    try:
        started = time.perf_counter()
        pair = write_both(folder, _config())
        print(f"written in {time.perf_counter() - started:.0f} s", file=sys.stderr)
        files = [p for side in pair for p in side.rglob("*") if p.is_file()]
        gib = sum(p.stat().st_size for p in files) / 1024**3
        rows = [("cat", *_cat(files), "-", "-")]
        rows.append(("parity audit, equal", *_audit(pair, files)))
        rows.append(("cat", *_cat(files), "-", "-"))
        _swap_query_and_key(pair[0], _SWAPPED)
        rows.append((f"parity audit, q and k of block {_SWAPPED} swapped", *_audit(pair, files)))
        _print(rows, gib)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _config():  # type: ignore[no-untyped-def]
    """A rotary model's settings with the depth of the real one; only the depth matters here."""
    base = model_path("micro-5b")
    texts = {name: (base / name).read_text() for name in CONFIG_FILES}
    return dataclasses.replace(read_configs(texts, "micro-5b").transformer, num_layers=LAYERS)


def _forget(files: list[Path]) -> None:
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _cat(files: list[Path]) -> tuple[float, float, str]:
    _forget(files)
    started, spent = time.perf_counter(), _cpu_s()
    with Path(os.devnull).open("wb") as nowhere:
        subprocess.run(["cat", *map(str, files)], stdout=nowhere, check=True)
    return time.perf_counter() - started, _cpu_s() - spent, "-"


def _cpu_s() -> float:
    """Processor time of all children so far: what a run needs, whoever else is on the machine."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def _audit(pair: tuple[Path, Path], files: list[Path]) -> tuple[float, float, str, str, str]:
    _forget(files)
    target = pair[0].parent / "audit.json"
    command = [sys.executable, "-m", "harness", "audit", str(pair[1]), str(pair[0])]
    started, spent = time.perf_counter(), _cpu_s()
    done = subprocess.run([*command, "--json", str(target)], stdout=subprocess.DEVNULL, check=False)
    wall_s, cpu_s = time.perf_counter() - started, _cpu_s() - spent
    report = json.loads(target.read_text())
    said = report["findings"][0]["detail"] if report["findings"] else report["headline"]
    return wall_s, cpu_s, f"{report['peak_gib']:.2f}", str(done.returncode), said


def _swap_query_and_key(folder: Path, block: int) -> None:
    """Exchange the bytes of two tensors in their safetensors file."""
    prefix = f"transformer_blocks.{block}.attn1"
    index = json.loads((folder / "diffusion_pytorch_model.safetensors.index.json").read_text())
    path = folder / index["weight_map"][f"{prefix}.to_q.weight"]
    with safe_open(str(path), framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    for p in ("weight", "bias"):
        q, k = f"{prefix}.to_q.{p}", f"{prefix}.to_k.{p}"
        tensors[q], tensors[k] = tensors[k], tensors[q]
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def _print(rows: list[tuple[object, ...]], gib: float) -> None:
    plain = [float(row[1]) for row in rows if row[0] == "cat"]  # type: ignore[arg-type]
    per_cat = sum(plain) / len(plain)
    print(f"\n{gib:.1f} GiB in both formats; {platform.processor() or platform.machine()},"
          f" {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python"
          f" {platform.python_version()}, torch {torch.__version__}, safetensors"
          f" {safetensors.__version__}\n")  # fmt: skip
    print("| run | seconds | CPU seconds | GiB/s | x cat | peak GiB | exit code | said |")
    print("|---|---:|---:|---:|---:|---:|---:|---|")
    for name, wall_s, cpu_s, peak, code, said in rows:
        ratio = float(wall_s) / per_cat  # type: ignore[arg-type]
        print(f"| {name} | {wall_s:.0f} | {cpu_s:.0f} | {gib / float(wall_s):.2f} | {ratio:.2f}"  # type: ignore
              f" | {peak} | {code} | {said} |")  # fmt: skip


if __name__ == "__main__":
    main()
