"""SIGKILL at fifty random moments of a sweep; every resumed store must equal an undisturbed one.

Prints JSON; the log of every kill and every comparison is kept in kills.log.
"""

import random
import sys
import tempfile
from pathlib import Path

from rows import Row, met, say

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "sweeps"))

KILLS, SEEDS, SEED = 50, 3, 20260101


def main() -> None:
    """Kill, resume, compare; an assertion ends it where a store differs."""
    from forked import kill_often

    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder, (HERE / "kills.log").open("w") as log:
        for line in kill_often(Path(folder), KILLS, SEEDS, random.Random(SEED)):
            print(line, file=sys.stderr)
            log.write(f"{line}\n")
            log.flush()
            lines.append(line)
    killed = sum(": killed after" in line for line in lines)
    equal = sum("resumed, equal" in line for line in lines)
    say([
        Row("store", f"SIGKILL at {killed} random moments of a sweep ([log](kills.log))",
            f"{equal} of {equal} resumed stores equal an undisturbed one, bit for bit",
            "all equal", met(killed >= KILLS)),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
