"""One undisturbed sweep, with which all disturbed ones are compared."""

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import sweeping

SEEDS = "seeds=0,1,2"


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The root of a finished sweep of six jobs, and the seconds that it took."""
    root = tmp_path_factory.mktemp("undisturbed")
    started = time.monotonic()
    code, said = sweeping.sweep(root, SEEDS)
    assert code == 0, said
    return root, time.monotonic() - started
