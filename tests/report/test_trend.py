"""Verdicts over runs, proposed limits, and numbers on their small axis."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_runs import Synthetic

from harness import report
from harness.records import Evidence, VerdictName
from harness.report.limits import _k, tolerance_limit
from harness.report.noise_band import draw_band
from harness.report.trend import read_trend


def history(root: Path, *verdicts: VerdictName | None, value: float = 1e-6) -> Synthetic:
    """A run for each verdict on one pair, the newest last; None: a run without the pair."""
    for day, verdict in enumerate(verdicts, start=1):
        run = Synthetic(root, f"run-{day:02}")
        run.created, run.commit = f"2026-01-{day:02}T00:00:00+00:00", f"c0ffee{day:02}"
        check = Evidence(stage="collapse", check="collapse.transformer", outcome="agrees",
                         detail="in float32", value=value * day, limit=1e-4)  # fmt: skip
        if verdict:
            run.pair(verdict, "sat", evidence=[check])
        run.save()
    return run


@pytest.mark.parametrize(
    ("verdicts", "change", "since"),
    [
        (["rounding", "bug"], "new", "run-02"),
        (["bug"], "new", "run-01"),
        (["rounding", "bug", "error", "broken"], "still failing", "run-02"),
        (["bug", "inconclusive", "bug"], "still failing", "run-01"),
        (["bug", "rounding"], "fixed", "run-02"),
        (["bug", "unsupported", "chaotic"], "fixed", "run-03"),
        (["bug", "rounding", "rounding"], "healthy", "run-02"),
        (["rounding", "not_run"], "no verdict", "run-02"),
        (["bug", None], "not in this run", "run-01"),
    ],
)
def test_new_fixed_and_still_failing(
    tmp_path: Path, verdicts: list[VerdictName | None], change: str, since: str
) -> None:
    run = history(tmp_path, *verdicts)
    (row,) = read_trend(run.folder, run.result()).rows
    assert (row.change, row.since) == (change, since)
    assert [cell.word.name if cell else None for cell in row.cells] == verdicts


def test_later_and_unreadable_runs_do_not_count(tmp_path: Path) -> None:
    newest = history(tmp_path, "bug", "rounding", "bug")
    (tmp_path / "runs" / "run-01" / "verdict.json").write_text("{")
    middle = Synthetic.__new__(Synthetic)
    middle.__dict__ |= newest.__dict__
    middle.created = "2026-01-02T00:00:00+00:00"
    trend = read_trend(tmp_path / "runs" / "run-02", middle.result())
    assert [run.folder for run in trend.runs] == ["run-02"]
    assert trend.unreadable == 1


def test_the_page_links_the_runs_and_proposes_a_limit(tmp_path: Path) -> None:
    run = history(tmp_path, *["rounding"] * 6, "bug")
    earlier = tmp_path / "runs" / "run-06"
    report.write(earlier, run.store.root)
    page = (report.write(run.folder, run.store.root).parent / "trend.html").read_text()
    assert "1 new, 0 still failing, 0 fixed" in page
    assert "c0ffee07" in page
    assert 'href="../run-06/pairs/' in page
    proposed = tolerance_limit([1e-6 * day for day in range(1, 7)])
    assert proposed is not None
    assert f"{proposed:.1e}" in page


@pytest.mark.parametrize(("n", "k"), [(5, 4.20), (8, 3.19), (10, 2.91), (20, 2.40)])
def test_the_tolerance_factor_is_the_tabulated_one(n: int, k: float) -> None:
    assert _k(n) == pytest.approx(k, abs=0.006)


@pytest.mark.parametrize("values", [[1e-6] * 4, [1e-6] * 4 + [0.0], [1.0] * 4 + [math.inf], []])
def test_no_limit_is_proposed_from_too_little(values: list[float]) -> None:
    assert tolerance_limit(values) is None


@given(
    st.lists(st.one_of(st.none(), st.floats()), min_size=1, max_size=4),
    st.one_of(st.none(), st.floats()),
    st.lists(st.floats(), max_size=4),
    st.booleans(),
)
def test_every_mark_lies_on_the_axis(
    values: list[float | None], limit: float | None, healthy: list[float], higher: bool
) -> None:
    band = draw_band(values, limit, healthy, higher_is_worse=higher)
    if band is None:
        assert all(value is None for value in values)
        return
    marks = [*band.values, *band.ticks, *([] if band.limit is None else [band.limit])]
    assert all(0 <= mark <= 100 for mark in marks)


def test_not_a_number_stands_at_the_worse_end() -> None:
    for higher, end in ((True, 98.5), (False, 1.5)):
        band = draw_band([math.nan], 1.0, [0.1, 0.2], higher_is_worse=higher)
        assert band is not None
        assert band.values == [end]


def test_order_is_kept_and_direction_is_said() -> None:
    band = draw_band([0.18], 2e-6, [1e-7, 5e-7])
    assert band is not None
    assert band.band is not None
    assert band.band[0] < band.band[1] < (band.limit or 0) < band.values[0]
    assert band.logarithmic
    assert band.worse_is_right
