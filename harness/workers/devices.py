"""One GPU for each process that renders: runs on one machine divide its devices among themselves.

A device is held by a lock on a file until the process ends, however it ends. A process opens one
pipeline at a time, so one device is enough for it and for all its workers.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from backends.worker.environment import Gpu, gpus

_POLL_S = 1.0
_held: list[IO[str]] = []


def hold_one_gpu(options: Sequence[Mapping[str, Any]]) -> None:
    """Choose a free device for this process and show its workers only that one.

    `options` are those of the variants to be rendered. Nothing is held where there is at most one
    device or all variants stay on the CPU. Only devices of the first one's model are used, because a
    render's key names one model. Waits while all are taken; no lease may be held meanwhile.
    """
    visible = gpus()
    if _held or len(visible) < 2 or all(each.get("device") == "cpu" for each in options):
        return
    alike = [gpu for gpu in visible if gpu.model == visible[0].model]
    while (name := _take(alike)) is None:
        time.sleep(_POLL_S)
    os.environ.update(CUDA_VISIBLE_DEVICES=name, CUDA_DEVICE_ORDER="PCI_BUS_ID")


def _take(devices: Sequence[Gpu]) -> str | None:
    # Slurm may number the devices of every task from 0, so names mean something within a task only.
    task = "-".join(os.environ.get(key, "0") for key in ("SLURM_JOB_ID", "SLURM_PROCID"))
    folder = Path(tempfile.gettempdir()) / f"parity-gpus-{os.getuid()}" / task
    folder.mkdir(parents=True, exist_ok=True)
    for gpu in devices:
        file = (folder / gpu.name.replace("/", "_")).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        _held.append(file)
        return gpu.name
    return None
