"""Which keys carry a difference, by group testing; and how much each, by exact Shapley values. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import comb
from typing import TypeVar

Differs = Callable[[frozenset[str]], bool]
"""Whether the reference with these keys set as the candidate's differs from the reference."""

K = TypeVar("K", bound=str)


def culprits(keys: Sequence[str], differs: Differs) -> list[str]:
    """Every key that takes part in the difference, in the order given.

    Groups that agree are dropped whole; a group that differs is halved. Where a group differs although
    neither half does, its keys act together only: each is kept whose removal makes the group agree.
    With c culprits among n keys that is about 2 c log2(n) questions.

    >>> asked = []
    >>> def differs(group):
    ...     asked.append(group)
    ...     return bool(group & {"c", "k"})
    >>> culprits(list("abcdefghijkl"), differs), len(asked) <= 16
    (['c', 'k'], True)
    """
    answers: dict[frozenset[str], bool] = {}

    def ask(group: Sequence[str]) -> bool:
        key = frozenset(group)
        if key not in answers:
            answers[key] = bool(group) and differs(key)
        return answers[key]

    def search(group: Sequence[str]) -> list[str]:
        if not ask(group):
            return []
        if len(group) == 1:
            return list(group)
        half = len(group) // 2
        found = [*search(group[:half]), *search(group[half:])]
        if found:
            return found
        return [key for key in group if not ask([other for other in group if other != key])]

    return search(keys)


def shapley(keys: Sequence[K], value: Callable[[frozenset[K]], float]) -> dict[K, float]:
    """Each key's exact Shapley value: its mean marginal contribution over all orders.

    They sum to value(all) - value(none). Needs 2^n values, so at most some six keys.

    >>> shapley(["a", "b"], lambda s: float(len(s) == 2))
    {'a': 0.5, 'b': 0.5}
    """
    n = len(keys)
    values = {
        frozenset(chosen): value(frozenset(chosen))
        for size in range(n + 1)
        for chosen in combinations(keys, size)
    }
    return {key: _mean_marginal(key, keys, values, n) for key in keys}


def _mean_marginal(
    key: K, keys: Sequence[K], values: Mapping[frozenset[K], float], n: int
) -> float:
    others = [other for other in keys if other != key]
    total = 0.0
    for size in range(n):
        weight = 1 / (n * comb(n - 1, size))
        for chosen in combinations(others, size):
            without = frozenset(chosen)
            total += weight * (values[without | {key}] - values[without])
    return total
