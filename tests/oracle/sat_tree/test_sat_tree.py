"""The built-in `sat` backend agrees with CogVideo's own code. Skipped unless a checkout is named."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from trees import HOW, VARIABLE, checkout, generation

pytestmark = [
    pytest.mark.skipif(checkout() is None, reason=f"{VARIABLE} names no CogVideo checkout; {HOW}"),
    pytest.mark.slow,
]

BOTH_ARE_THE_SAME = 0.0
CROSSED = 1e-5
"""Relative L2: guidance on the velocity and on the clean sample round differently."""


def _kinds() -> list[Any]:
    if (folder := checkout()) is None:
        return [None]
    from tree_comparisons import kinds_of

    return kinds_of(generation(folder))


@pytest.fixture(scope="module", params=_kinds(), ids=str)
def both(request: pytest.FixtureRequest) -> Iterator[Any]:
    from tree_comparisons import open_both

    from backends.errors import MissingPrerequisite

    kind = request.param
    try:
        own, theirs = open_both(str(checkout()), kind)
    except MissingPrerequisite as error:
        pytest.skip(str(error))
    yield kind, own, theirs
    own.close()
    theirs.close()


def test_every_stage_is_equal(both: Any) -> None:
    from tree_comparisons import compare

    figures = list(compare(*both))
    assert figures
    for what, largest, relative in figures:
        limit = CROSSED if "solver" in what else BOTH_ARE_THE_SAME
        if "solver" in what and both[0].dtype != "float32":
            continue  # half-precision outputs make two ways of guidance differ by more than rounding
        assert relative <= limit, f"{what}: largest {largest:.3e}, relative L2 {relative:.3e}"


def test_schedules_are_equal(both: Any) -> None:
    from tree_comparisons import schedules_agree

    kind, own, theirs = both
    assert schedules_agree(own, theirs, kind)


def test_identities_are_equal(both: Any) -> None:
    _, own, theirs = both
    first, second = own.identity(), theirs.identity()
    assert first.weights == second.weights
    assert first.dtypes == second.dtypes
    assert second.configs.items() >= first.configs.items()
    assert set(second.configs) - set(first.configs) == {"cogvideo.code_sha256"}


def test_the_command_compares_both(tmp_path: Path) -> None:
    from harness.cli import main

    if generation(str(checkout())) != "1.0":
        pytest.skip("the micro case of this test is a 1.0 model; use tag v1.0")
    code = main(
        ["run", "case=[micro_2b_quick]", "candidate=[sat]", "reference=sat", "reference.name=built_in",
         f"candidates.sat.repo={checkout()}", f"store={tmp_path}/store",
         f"results={tmp_path}/results", "metrics=[psnr]"]
    )  # fmt: skip
    verdict = json.loads((tmp_path / "results" / "latest" / "verdict.json").read_text())
    (pair,) = verdict["pairs"]
    assert (code, pair["verdict"]) == (0, "bit_exact"), pair
