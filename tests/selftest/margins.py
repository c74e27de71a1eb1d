"""How near healthy configurations come to the limits: what the absence of false alarms rests on."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from harness.records import PairResult


def margins(pair: PairResult) -> dict[str, float]:
    """The largest value / limit of each check of `pair` that has both; infinite where the value is.

    A check whose limit is 0 demands equal bits and has no margin; the free-running stage is governed by
    the error rate of its e-value.
    """
    found: dict[str, float] = {}
    for evidence in pair.evidence:
        value, limit = evidence.value, evidence.limit
        if evidence.stage in ("free", "statistics") or value is None or not limit:
            continue
        ratio = value / limit if math.isfinite(value) else math.inf
        found[evidence.check] = max(ratio, found.get(evidence.check, 0.0))
    return found


def section(found: Sequence[dict[str, float]]) -> list[str]:
    """Lines of Markdown about the margins of many pairs, the nearest check first; none without pairs."""
    by_check: defaultdict[str, list[float]] = defaultdict(list)
    for one in found:
        for check, ratio in one.items():
            by_check[check].append(ratio)
    if not by_check:
        return []
    lines = [
        "", "## How near healthy configurations come to the limits", "",
        "| check | configurations | typical value / limit | largest |", "|---|---|---|---|",
    ]  # fmt: skip
    for check, ratios in sorted(by_check.items(), key=lambda item: -max(item[1])):
        lines.append(f"| {check} | {len(ratios)} | {median(ratios):.2g} | {max(ratios):.2g} |")
    return lines
