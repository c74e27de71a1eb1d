"""Two defects at once, in different components; a patch `a+b` plants `a` and then `b`."""

from __future__ import annotations

from importlib import import_module

from backends.base import Pipeline
from backends.worker.patches import apply, patch
from tests.selftest.rows_pairs import ON_FIVE, ON_TWO

# A pair's patch applies two others, so the modules that register those are loaded with this one.
for _file in (
    "weights", "positions", "attention", "blocks", "text", "schedule", "guidance", "noise", "solver",
    "loop", "decoder", "precision", "frames",
):  # fmt: skip
    import_module(f"tests.selftest.faults.{_file}")

PAIRS = (*ON_TWO, *ON_FIVE)


def _register(first: str, second: str) -> None:
    def plant(pipeline: Pipeline) -> Pipeline:
        return apply(second, apply(first, pipeline))

    patch(f"{first}+{second}")(plant)


for _pair in PAIRS:
    _register(*_pair)
