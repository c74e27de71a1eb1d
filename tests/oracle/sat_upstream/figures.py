"""Print the figures of all comparisons as Markdown, with the versions that they hold for.

PARITY_COGVIDEO_SAT=<checkout>/sat python tests/oracle/sat_upstream/figures.py
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[3])]

from upstream import HOW, Upstream, checkout  # noqa: E402


def main() -> None:
    folder = checkout()
    if folder is None:
        sys.exit(HOW)
    from parts import COMPARISONS

    from backends.sat.stack import SoloWorld

    SoloWorld()
    with redirect_stdout(sys.stderr):  # upstream prints as it is imported and built
        upstream = Upstream(folder)
    asked = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    commit = asked.stdout.strip() or "unknown commit (no git folder)"
    print(f"CogVideo {commit}, {'tag v1.0 code' if upstream.is_v1 else 'main branch code'};")
    print(
        f"torch {version('torch')}, SwissArmyTransformer {version('SwissArmyTransformer')}, CPU.\n"
    )
    print("| part | what | largest difference | relative L2 |\n|---|---|---|---|")
    for part, compare in COMPARISONS.items():
        with redirect_stdout(sys.stderr):
            figures = list(compare(upstream))
        for what, largest, relative in figures:
            print(f"| {part} | {what} | {largest:.1e} | {relative:.1e} |")


if __name__ == "__main__":
    main()
