"""Shares of the gap: exact, with intervals, and cancelling faults are said; on real pipelines, too."""

from collections.abc import Iterator
from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest

from backends.base import Case, ScheduleTable, Variant
from backends.stages.questions import Question
from harness.judge.measured import LocalData, ProbeSettings, Side
from harness.localize.components import Gaps, divide, measured_gaps, shares_of
from harness.probe.prober import Prober, Shared, Target
from harness.records import Component, Evidence
from harness.store.store import Store
from harness.workers.connect import in_process

SEEDS = 4


def _gaps(vectors: dict[Component, list[float]]) -> Gaps:
    """|sum of the chosen parts' vectors|^2, the same for every seed but for its size."""
    names = list(vectors)
    sizes = np.linspace(0.8, 1.2, SEEDS)
    sets = chain.from_iterable(combinations(names, n) for n in range(len(names) + 1))
    gaps: dict[frozenset[Component], Any] = {}
    for chosen in sets:
        total = np.sum([np.zeros(2), *(np.array(vectors[c]) for c in chosen)], axis=0)
        gaps[frozenset(chosen)] = float(total @ total) * sizes
    return gaps


def test_independent_faults_have_the_shares_that_they_make_alone() -> None:
    found = shares_of(["text", "decoder"], _gaps({"text": [2, 0], "decoder": [0, 1]}))
    assert {s.component: s.share for s in found.shares} == pytest.approx(
        {"text": 0.8, "decoder": 0.2}
    )
    assert found.shares[0].component == "text"
    assert found.says == []


def test_shares_sum_to_the_gap_and_lie_in_their_intervals() -> None:
    parts: dict[Component, list[float]] = {
        "text": [1, 2],
        "transformer": [3, -1],
        "solver": [0, 0.5],
    }
    found = shares_of(list(parts), _gaps(parts))
    assert sum(s.share for s in found.shares) == pytest.approx(1)
    for share in found.shares:
        assert share.low - 1e-9 <= share.share <= share.high + 1e-9


def test_a_fault_that_works_against_another_is_said() -> None:
    found = shares_of(["solver", "decoder"], _gaps({"solver": [2, 0], "decoder": [-0.5, 0]}))
    assert next(s for s in found.shares if s.component == "decoder").share < 0
    assert any("decoder works against the rest" in text for text in found.says)
    assert any("cancel in part" in text for text in found.says)


def test_faults_that_cancel_whole_get_no_share_and_are_said() -> None:
    found = shares_of(["solver", "decoder"], _gaps({"solver": [1, 0], "decoder": [-1, 0]}))
    assert found.shares == []
    assert "cancel" in found.says[0]


def test_what_is_not_finite_is_not_divided() -> None:
    gaps = dict(_gaps({"solver": [1, 0], "decoder": [0, 1]}))
    gaps[frozenset({"solver"})] = np.array([1.0, 1.0, 1.0, np.inf])
    found = shares_of(["solver", "decoder"], gaps)
    assert found.shares == [] and "not finite" in found.says[0]


CASE = Case(
    name="tiny", model="micro-2b", prompt="a red circle moving left", negative_prompt="", frames=9,
    height=32, width=32, steps=3, guidance_scale=6.0, dynamic_guidance=False, sampler="ddim", fps=8,
)  # fmt: skip
STEPS = (0, 2)
PLANTED = "weights_value_bias_lost+decoder_gain"
OPTIONS = {"device": "cpu", "dtype": "float32"}


@pytest.fixture(scope="module")
def prober(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prober]:
    folder, plugins = tmp_path_factory.mktemp("shares"), ["tests.selftest.faults.pairs"]
    with Prober(Store(folder / "store"), in_process, plugins, 600, folder) as opened:
        yield opened


TARGETS = (
    Target(Variant("reference", "diffusers", OPTIONS), None, 1),
    Target(Variant("candidate", "diffusers", OPTIONS, PLANTED), None, 1),
)


@pytest.fixture(scope="module")
def data(prober: Prober) -> LocalData:
    """As much of a local comparison as the shares need."""
    own = [Question("own", "own", seed=0)]
    runs = [Question(f"s{seed}", "trajectory", seed=seed, steps=STEPS) for seed in (0, 1)]
    a = prober.ask(TARGETS[0], CASE, Shared(), [*own, *runs], {})
    b = prober.ask(TARGETS[1], CASE, Shared(), own, {})
    table = ScheduleTable(**a.facts["own"]["schedule"])
    settings = ProbeSettings((0, 1), (1000001,))
    return LocalData(CASE, STEPS, settings, table, Side(a, None), Side(b, None), None)


NAMED: list[Component] = ["transformer", "guidance", "decoder", "frames"]
EVIDENCE = [
    Evidence(stage="collapse", check=f"collapse.{c}", component=c, outcome="differs", detail="")
    for c in NAMED[:3]
]


def _frames(prober: Prober, target: Target) -> Any:
    """The frames of a side's own short run, every link its own."""
    start = prober.ask(target, CASE, Shared(), [Question("o", "own", seed=0)], {})
    source, velocities, questions = "x", tuple[str, ...](), list[Question]()
    for index, step in enumerate(STEPS):
        until = (*STEPS[1:], CASE.steps)[index]
        velocities = (*velocities, f"p{index}")
        questions += [
            Question(f"p{index}", "predict", seed=0, steps=(step,), source=source),
            Question(f"a{index}", "advance", seed=0, steps=STEPS[: index + 1], source="x",
                     sources=velocities, until=until),
        ]  # fmt: skip
        source = f"a{index}"
    questions.append(Question("d", "decode", seed=0, sources=(f"{source}.{CASE.steps}.in",)))
    given = {"x.0.in": start.tensors["o.initial"]}
    found = prober.ask(target, CASE, Shared(), questions, given)
    return found.tensors["d.0.frames"].astype(np.float64)


def test_exchanged_parts_of_two_pipelines_add_up_to_their_gap(
    prober: Prober, data: LocalData
) -> None:
    before = prober.fresh_calls
    found = divide(prober, data, TARGETS, NAMED, EVIDENCE)
    shares = {s.component: s.share for s in found.shares}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["transformer"] > 0.01 and shares["decoder"] > 0.01
    # Guidance is the same on both sides, so exchanging it changes nothing but a rounding.
    assert abs(shares["guidance"]) < 1e-6
    assert prober.fresh_calls - before == 2 * (2 + 4)
    assert "frames" in found.says[-1]


def test_the_whole_exchange_is_the_candidate_itself(prober: Prober, data: LocalData) -> None:
    gaps = measured_gaps(prober, data, TARGETS, ["transformer", "guidance", "decoder"], EVIDENCE)
    a, b = (_frames(prober, target) for target in TARGETS)
    expected = ((b - a) ** 2).sum() / (a**2).sum()
    everything = max(gaps, key=len)
    assert gaps[everything][0] == pytest.approx(expected, rel=1e-4)
    assert gaps[frozenset()][0] == 0
