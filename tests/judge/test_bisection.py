"""Group testing over settings finds all culprits at little cost; shares sum to the gap."""

import itertools

import pytest

from harness.localize.search import culprits, shapley

KEYS = [f"k{i:02d}" for i in range(12)]


@pytest.mark.parametrize("pair", list(itertools.combinations(range(12), 2))[::5])
def test_two_culprits_of_twelve_in_at_most_forty_questions(pair: tuple[int, int]) -> None:
    wrong = {KEYS[i] for i in pair}
    asked = []

    def differs(group: frozenset[str]) -> bool:
        asked.append(group)
        return bool(group & wrong)

    assert set(culprits(KEYS, differs)) == wrong
    assert len(asked) <= 40


def test_keys_that_act_together_only_are_found_together() -> None:
    def differs(group: frozenset[str]) -> bool:
        return {"k01", "k09"} <= group

    assert culprits(KEYS, differs) == ["k01", "k09"]


def test_nothing_is_blamed_where_nothing_differs() -> None:
    assert culprits(KEYS, lambda _: False) == []


def test_shares_sum_to_the_gap_and_an_idle_key_has_none() -> None:
    weights = {"a": 3.0, "b": 1.0, "idle": 0.0}

    def value(chosen: frozenset[str]) -> float:
        return sum(weights[k] for k in chosen) ** 2

    found = shapley(list(weights), value)
    assert sum(found.values()) == pytest.approx(16.0)
    assert found["idle"] == 0.0
    assert found["a"] > found["b"] > 0
