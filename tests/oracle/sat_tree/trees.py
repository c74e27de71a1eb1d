"""The user's checkout of CogVideo, and how to run these comparisons."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

VARIABLE = "PARITY_COGVIDEO_SAT"
HOW = (
    f"set {VARIABLE} to the `sat` folder of a CogVideo checkout (tag v1.0 for the 1.0 models, main"
    " for 1.5), pip install 'cogvideox-parity[cogvideo]', and run `pytest tests/oracle/sat_tree`"
)


def checkout() -> str | None:
    """The folder that the user named, if it is CogVideo's."""
    value = os.environ.get(VARIABLE)
    return value if value and (Path(value) / "diffusion_video.py").is_file() else None


def generation(folder: str) -> str:
    """Which models the code renders; only the main branch's parser knows a sampling size."""
    text = (Path(folder) / "arguments.py").read_text()
    return "1.5" if "--sampling-image-size" in text else "1.0"


def commit(folder: str) -> str:
    """The commit that is checked out, or why that is not known; `+` if files were changed."""
    asked = [
        subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=False)
        for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
    ]
    if asked[0].returncode:
        return "unknown (no git folder)"
    return asked[0].stdout.strip() + ("+" if asked[1].stdout.strip() else "")
