"""The weights of both pipelines, counted by component: equal, different, only on one side."""

from __future__ import annotations

from dataclasses import dataclass

from harness.records import PipelineRecord

_LISTED = 12


@dataclass(frozen=True)
class WeightsRow:
    """One component. `names` are the first few tensors that do not agree."""

    component: str
    equal: int
    different: int
    missing: int
    unexpected: int
    names: list[str]
    more: int

    @property
    def agrees(self) -> bool:
        """Whether every tensor is on both sides with the same bytes."""
        return not (self.different or self.missing or self.unexpected)


def audit_weights(reference: PipelineRecord, candidate: PipelineRecord) -> list[WeightsRow]:
    """One row for each component, those that do not agree first."""
    names = sorted(reference.weights.keys() | candidate.weights.keys())
    components = dict.fromkeys(name.split(".")[0] for name in names)
    rows = [
        _row(part, [n for n in names if n.split(".")[0] == part], reference, candidate)
        for part in components
    ]
    return sorted(rows, key=lambda row: row.agrees)


def _row(
    component: str, names: list[str], reference: PipelineRecord, candidate: PipelineRecord
) -> WeightsRow:
    a, b = reference.weights, candidate.weights
    odd = [name for name in names if a.get(name) != b.get(name)]
    missing, unexpected = (sum(n not in side for n in odd) for side in (b, a))
    return WeightsRow(
        component=component,
        equal=len(names) - len(odd),
        different=len(odd) - missing - unexpected,
        missing=missing,
        unexpected=unexpected,
        names=odd[:_LISTED],
        more=max(0, len(odd) - _LISTED),
    )
