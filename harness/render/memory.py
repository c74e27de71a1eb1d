"""What a render holds in memory at least, against what this machine has."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from backends.base import Case

_GIB = 2**30
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_COPIES = 2
"""The decoder's float32 frames, and the frames in the layout that is handed over."""


def machine_gib() -> float:
    """Memory that a process here can have, in GiB: the machine's, or its container's if that is less."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such hierarchy, or "max"
            limits.append(int(Path(path).read_text()))
    return min(limits) / _GIB


def least_gib(case: Case) -> float:
    """What the decoded video of `case` alone takes, in GiB; the model comes on top."""
    return _COPIES * case.frames * case.height * case.width * 3 * 4 / _GIB
