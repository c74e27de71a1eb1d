"""Tables that a stack computes, and whose last bits depend on the order in which it does so."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from harness.records import Evidence, PipelineRecord, TableRecord

_EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
LARGEST = 0.5
"""Relative L2 distance, in units of the dtype's epsilon, up to which two tables are one. Values that are
both rounded right lie within one epsilon of each other and mostly on each other. Measured: positions of
micro-2b with frequencies in place of positions divided, 0.11 in float32, 0 in bfloat16. A table of 34
million values of which one is wrong by its own size lies 2,900 times as far away in float32."""


def rounded_tables(
    reference: PipelineRecord, candidate: PipelineRecord
) -> Iterator[tuple[str, float]]:
    """Names of the tables that differ by rounding alone, and by how much: relative L2, estimated from
    the sketches within some 5 %."""
    for name in sorted(reference.tables.keys() & candidate.tables.keys()):
        if reference.weights.get(name) == candidate.weights.get(name):
            continue
        gap = _gap(reference.tables[name], candidate.tables[name])
        if gap is not None and gap <= LARGEST * _EPS[reference.tables[name].dtype]:
            yield name, gap


def _gap(a: TableRecord, b: TableRecord) -> float | None:
    if a.dtype not in _EPS or (a.dtype, a.shape) != (b.dtype, b.shape):
        return None
    x, y = np.asarray(a.sketch), np.asarray(b.sketch)
    size = float(np.linalg.norm(x))
    gap = float(np.linalg.norm(x - y)) / size if size else float("inf")
    return gap if np.isfinite(gap) else None


def said_of_tables(reference: PipelineRecord, candidate: PipelineRecord) -> list[Evidence]:
    """One line of evidence for each such table."""
    return [
        Evidence(
            stage="exact",
            check=f"exact.table.{name}",
            outcome="agrees",
            value=gap,
            limit=LARGEST * _EPS[reference.tables[name].dtype],
            detail=f"{name} is computed, not loaded, and differs by rounding alone",
        )
        for name, gap in rounded_tables(reference, candidate)
    ]
