"""Which commit a run belongs to."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def current_commit(folder: Path) -> str | None:
    """The commit checked out in `folder`, `+` appended where files differ from it; None outside git.

    In a CI job the commit that the job was started for comes first, which its checkout may have merged.
    """
    if sha := os.environ.get("GITHUB_SHA"):
        return sha
    head = _git(folder, "rev-parse", "HEAD")
    if head is None:
        return None
    return head + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
