"""SIGKILL at fifty random moments of a sweep; every resumed store must equal an undisturbed one."""

import random
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "sweeps"))

KILLS, SEEDS, SEED = 50, 3, 20260101


def main() -> None:
    """Print the log and keep it in `kills.log`."""
    from forked import kill_often

    with tempfile.TemporaryDirectory() as folder, (HERE / "kills.log").open("w") as log:
        for line in kill_often(Path(folder), KILLS, SEEDS, random.Random(SEED)):
            print(line)
            log.write(f"{line}\n")


if __name__ == "__main__":
    main()
