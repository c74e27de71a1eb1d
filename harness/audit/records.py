"""The records of an audit, and `parity audit --json`'s data format."""

from __future__ import annotations

from typing import Any, Literal

from harness.records import Coverage, Finding, Record

AUDIT_SCHEMA_VERSION = 2

Status = Literal[
    "identical", "same_values", "rounded", "differs", "reshaped", "missing", "unexpected"
]
"""`identical`: every bit, in canonical layout. `same_values`: the same numbers in another dtype.
`rounded`: the candidate is the reference rounded through a narrower dtype, exactly. `reshaped`:
another shape. `missing` and `unexpected`: only the reference, or only the candidate, has it."""


class Values(Record):
    """The values of one tensor. `minimum`, `maximum` (of the finite ones), `non_finite` and `count`
    are exact; the rest comes from a strided sample of at most 16384 values.

    `quantiles` are those at 0.1, 1, 50, 99 and 99.9 %. `fp16_flushed_share` is the share of values
    that are not zero and would become zero in float16.
    """

    count: int
    minimum: float
    maximum: float
    non_finite: int
    mean: float
    std: float
    quantiles: list[float]
    zero_share: float
    fp16_flushed_share: float


class Difference(Record):
    """`backends.checkpoints.relation.Distance` of the candidate's tensor from the reference's."""

    rel_l2: float
    max_abs: float
    changed_share: float
    max_ulps: float
    cosine: float


class TensorReport(Record):
    """One canonical tensor on both sides. `relation` says in words how the candidate's came from the
    reference's, where that was found; `values_b` is None where it equals `values_a`."""

    name: str
    status: Status
    stored_a: str | None
    stored_b: str | None
    dtype_a: str | None
    dtype_b: str | None
    shape_a: list[int] | None
    shape_b: list[int] | None
    relation: str | None = None
    difference: Difference | None = None
    values_a: Values | None = None
    values_b: Values | None = None


class SourceReport(Record):
    """One audited checkpoint. `tensors` and `dtypes` are per component."""

    path: str
    kind: str
    tensors: dict[str, int]
    dtypes: dict[str, dict[str, int]]
    gib: float
    remarks: list[str]


class AuditReport(Record):
    """Two checkpoints compared tensor by tensor and key by key.

    `identical` means: everything that either side has was compared, every tensor has the same bits in
    canonical layout, and no setting differs. `coverage` says what was compared and names what was not;
    with anything missing there the exit code is never 0. `findings` are the differences, worst first;
    `notes` are facts that make no difference between the two (ranges, tied tensors, what was not
    compared). `compared` counts tensors by status. `peak_gib` is the process's peak resident memory.
    """

    schema_version: int = AUDIT_SCHEMA_VERSION
    reference: SourceReport
    candidate: SourceReport
    identical: bool
    headline: str
    coverage: list[Coverage]
    compared: dict[str, int]
    findings: list[Finding]
    notes: list[Finding]
    settings: dict[str, dict[str, Any]]
    tensors: list[TensorReport]
    wall_s: float
    peak_gib: float
    exit_code: int
