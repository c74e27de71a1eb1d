"""Print the figures of all comparisons as Markdown, with the versions that they hold for.

PARITY_COGVIDEO_SAT=<checkout>/sat python tests/oracle/sat_tree/figures.py
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[3])]

from trees import HOW, checkout, commit, generation  # noqa: E402

_PACKAGES = ("torch", "transformers", "SwissArmyTransformer", "pytorch_lightning", "kornia",
             "beartype")  # fmt: skip


def main() -> None:
    folder = checkout()
    if folder is None:
        sys.exit(HOW)
    from tree_comparisons import compare, kinds_of, open_both, schedules_agree

    from backends.worker.environment import describe

    print(f"CogVideo {commit(folder)}, whose code renders {generation(folder)};")
    print(", ".join(f"{name} {version(name)}" for name in _PACKAGES) + ";")
    print(f"{describe()['cpu']}, no GPU.\n")
    print("| model | what | largest difference | relative L2 |\n|---|---|---|---|")
    for kind in kinds_of(generation(folder)):
        with redirect_stdout(sys.stderr):
            own, theirs = open_both(folder, kind)
            figures = list(compare(kind, own, theirs))
            agree = schedules_agree(own, theirs, kind)
        row = f"| {kind} |"
        for what, largest, relative in figures:
            print(f"{row} {what} | {largest:.1e} | {relative:.1e} |", flush=True)
        print(f"{row} schedules of 2, 3, 20, 50 steps | {'equal' if agree else 'DIFFERENT'} | |")
        own.close()
        theirs.close()


if __name__ == "__main__":
    main()
