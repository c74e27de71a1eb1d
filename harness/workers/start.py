"""Starting a worker: as a process of its own from the beginning, or forked where that is safe.

A fork costs a tenth of a second where a process of its own imports torch and the stacks for several.
But the driver of an accelerator does not survive a fork, and importing the stacks may initialise it:
where there is one, and elsewhere than on Linux, every worker is a process of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO

from harness.workers.fork import start_forked
from harness.workers.process import OwnProcess, StartedWorker

_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/dri")


def can_fork() -> bool:
    """Whether forked workers are safe on this machine."""
    return sys.platform == "linux" and not any(Path(driver).exists() for driver in _DRIVERS)


def start(
    python: str,
    env: dict[str, str],
    said: dict[str, str],
    log: IO[bytes],
    plugin_paths: list[str],
    backend: str | None,
) -> StartedWorker:
    """Start a worker that will open `backend`; None where that is not known. `said` is what the
    interpreter says of itself.

    Raises `WorkerError` when there is no such interpreter.
    """
    if can_fork():
        return start_forked(python, env, said, log, plugin_paths, backend)
    return OwnProcess(python, env, log, plugin_paths)
