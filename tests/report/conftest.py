from __future__ import annotations

from pathlib import Path

import pytest
from browsing import browser, page
from gallery_runs import gallery
from synthetic_runs import Synthetic, demo

from harness import report

__all__ = ["browser", "page"]


@pytest.fixture
def run(tmp_path: Path) -> Synthetic:
    """A run without pairs, to be filled by the test."""
    return Synthetic(tmp_path)


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    """A saved run with ten pairs and most verdicts; tests only read it."""
    synthetic = demo(tmp_path_factory.mktemp("demo"))
    synthetic.save(exit_code=1)
    return synthetic


@pytest.fixture(scope="session")
def gallery_run(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    """A saved and reported run with a pair of every verdict; tests only read it."""
    run = gallery(tmp_path_factory.mktemp("gallery"))
    run.save(exit_code=1)
    report.write(run.folder, run.store.root)
    return run
