"""Goldens: accepted, compared, refused, and never compared across environments."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from harness.api.goldens import Golden, GoldenError, GoldenRender, accept, check, read_golden
from harness.store.store import Store


@pytest.fixture(autouse=True)
def outside_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)


def golden(steps: str = "abc", frames: str = "f", torch: str = "2.6", **changes: object) -> Golden:
    values: dict[str, object] = {
        "name": "port",
        "environment": {"torch": torch, "cpu": "example"},
        "dtypes": {"transformer": "bfloat16"},
        "case": {"frames": 9, "prompt": "a circle"},
        "backend": "diffusers",
        "seeds": {0: GoldenRender(steps=list(steps), latents=steps[-1], frames=frames)},
        "provenance": {"accepted": "2026-01-02T03:04:05+00:00"},
    }
    return Golden.model_validate(values | changes)


def test_what_was_accepted_matches_and_survives_the_file(tmp_path: Path) -> None:
    assert check(tmp_path, golden()).outcome == "missing"
    accept(tmp_path, golden())
    found = check(tmp_path, golden())
    assert found.outcome == "matches"
    assert "2026-01-02" in found.detail


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (golden("axc"), "after step 1"),
        (golden(frames="g"), "in the frames alone"),
        (golden(case={"frames": 13, "prompt": "a circle"}), "frames: 9 there, 13 here"),
        (golden(seeds={}), "holds the seeds"),
        (golden("abcd"), "in the final latents"),
    ],
)
def test_a_difference_says_where_it_begins(tmp_path: Path, result: Golden, says: str) -> None:
    accept(tmp_path, golden())
    found = check(tmp_path, result)
    assert found.outcome == "differs"
    assert says in found.detail
    assert "--parity-accept" in found.detail


@pytest.mark.parametrize(
    "other",
    [golden(torch="2.7"), golden(dtypes={"transformer": "float32"}), golden("xyz", torch="1")],
)
def test_another_environment_is_an_outcome_of_its_own(tmp_path: Path, other: Golden) -> None:
    accept(tmp_path, golden())
    found = check(tmp_path, other)
    assert found.outcome == "environment_mismatch"
    assert "nothing was compared" in found.detail
    assert "there" in found.detail


def test_each_environment_has_its_own_golden(tmp_path: Path) -> None:
    accept(tmp_path, golden())
    accept(tmp_path, golden("xyz", torch="2.7"))
    assert check(tmp_path, golden()).outcome == "matches"
    assert check(tmp_path, golden("xyz", torch="2.7")).outcome == "matches"


@pytest.mark.parametrize("ci", ["true", "True", "1"])
def test_ci_accepts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ci: str) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(GoldenError, match="CI=true"):
        accept(tmp_path, golden())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "x" * 200, ".hidden"])
def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    with pytest.raises(GoldenError, match="a name may hold"):
        read_golden(name, store, [], {})


def test_many_can_accept_at_once(tmp_path: Path) -> None:
    threads = [threading.Thread(target=accept, args=(tmp_path, golden())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert check(tmp_path, golden()).outcome == "matches"
    assert len(list((tmp_path / "port").iterdir())) == 1


def test_a_damaged_golden_is_an_error_with_the_next_step(tmp_path: Path) -> None:
    path = accept(tmp_path, golden())
    path.write_text("{")
    with pytest.raises(Exception, match="accept the result again"):
        check(tmp_path, golden())
