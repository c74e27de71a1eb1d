"""The shared pipeline of these tests; how to drive it is the contract's business."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from small_renders import Full

sys.path.append(str(Path(__file__).parents[1] / "contract"))


@pytest.fixture(scope="session")
def full() -> Iterator[Full]:
    """The 5B-like model in float32, whole on the CPU, with its identity and a render."""
    from small_renders import opened_full

    found = opened_full()
    yield found
    found.pipeline.close()
