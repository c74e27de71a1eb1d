"""Facts about two checkpoints that are no difference between them: ranges, copies, what was left out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import torch

from backends.checkpoints import Source
from backends.checkpoints.relation import bits_equal
from harness.audit.compare import Comparison, Pair
from harness.audit.places import listed, place, record_component
from harness.audit.records import Values
from harness.audit.values import FP16_MAX
from harness.records import Finding
from harness.report.text import counted

_FLUSHED = 0.001
_SMALL = 16


def range_findings(pairs: list[Pair], dtype: str) -> list[Finding]:
    """Tensors of the candidate whose values `dtype` cannot hold, and NaN or infinity anywhere."""
    overflow = _overflow(pairs) if dtype == "float16" else ()
    return [*_non_finite(pairs), *_whole_numbers(pairs), *overflow]


def copies(found: Comparison) -> list[Finding]:
    """Tensors of one component of the candidate that are equal to the bit: tied, or one too many.

    Constant ones and small ones are left out: fresh norms are all alike.
    """
    groups: defaultdict[tuple[str, tuple[int, ...], str, bytes], list[Pair]] = defaultdict(list)
    for pair in found.pairs:
        values = pair.values_b or pair.values_a
        if pair.b is None or values is None or values.std == 0 or values.count < _SMALL:
            continue
        key = found.prints_b[pair.name].numpy().tobytes()
        component = place(pair.name).component
        groups[component, pair.b.shape, pair.b.dtype, key].append(pair)
    return [_copy(group) for group in groups.values() if len(group) > 1 and _all_equal(group)]


def remarks(a: Source, b: Source) -> list[Finding]:
    """What is to be known of a side alone, and the tables that SAT stores and Diffusers computes."""
    found = [
        _note("component", which, f"{which}: {remark}")
        for side, which in ((a, "reference"), (b, "candidate"))
        for remark in side.remarks
    ]
    for name, (stored, expected, _) in {**a.tables, **b.tables}.items():
        checked = "checked against the settings" if expected else "read by nothing, or not checked"
        found.append(
            _note("weights", name, f"{stored.stored_as}: SAT stores it, Diffusers computes it"
                  f" ({checked})")
        )  # fmt: skip
    return found


def _note(kind: str, name: str, detail: str) -> Finding:
    return Finding(kind=kind, name=name, detail=detail)


def _candidate(pair: Pair) -> Values | None:
    return (pair.values_b or pair.values_a) if pair.b is not None else None


def _non_finite(pairs: list[Pair]) -> Iterable[Finding]:
    bad = [(pair, v) for pair in pairs if (v := _candidate(pair)) and v.non_finite]
    if bad:
        first, values = bad[0]
        yield Finding(
            kind="weights",
            name=first.name,
            detail=f"{counted(len(bad), 'tensor')} of the candidate hold NaN or infinity:"
            f" {listed(pair.name for pair, _ in bad)} ({values.non_finite} of {values.count} values"
            " in the first)",
            component=record_component(first.name),
            block=place(first.name).block,
            remedy="Do not render this checkpoint; find where it was saved or converted",
        )


def _whole_numbers(pairs: list[Pair]) -> Iterable[Finding]:
    """Weights stored as small whole numbers, without the scale that makes weights of them."""
    bad = [
        pair.name for pair in pairs
        if pair.b is not None and pair.b.dtype in ("int8", "uint8") and pair.b.scale is None
    ]  # fmt: skip
    if bad:
        yield Finding(
            kind="weights",
            name=bad[0],
            detail=f"{counted(len(bad), 'tensor')} of the candidate are whole numbers without a scale:"
            f" {listed(bad)}; a loader would take the numbers for the weights",
            component=record_component(bad[0]),
            block=place(bad[0]).block,
            remedy="Keep the scales beside the weights, or apply them before saving",
        )


def _overflow(pairs: list[Pair]) -> Iterable[Finding]:
    def largest(values: Values) -> float:
        return max(abs(values.minimum), abs(values.maximum))

    known = [(pair, v) for pair in pairs if (v := _candidate(pair)) and not math.isnan(v.minimum)]
    over = sorted((x for x in known if largest(x[1]) > FP16_MAX), key=lambda x: -largest(x[1]))
    if over:
        pair, values = over[0]
        yield Finding(
            kind="dtype",
            name=pair.name,
            detail=f"float16 ends at {FP16_MAX:.0f}, and {counted(len(over), 'tensor')} reach beyond it"
            f" ({pair.name}: {largest(values):.3g}): they become infinite, and the video black",
            candidate=largest(values),
            component=record_component(pair.name),
            block=place(pair.name).block,
            remedy="Run in bfloat16 or float32",
        )
    flushed = [x for x in known if x[1].fp16_flushed_share > _FLUSHED]
    if flushed:
        pair, values = max(flushed, key=lambda x: x[1].fp16_flushed_share)
        yield Finding(
            kind="dtype",
            name=pair.name,
            detail=f"in float16 {values.fp16_flushed_share:.1%} of the values of {pair.name} become"
            f" zero ({counted(len(flushed), 'tensor')} lose more than {_FLUSHED:.1%})",
            candidate=values.fp16_flushed_share,
            component=record_component(pair.name),
            block=place(pair.name).block,
            remedy="Run in bfloat16 or float32",
        )


def _all_equal(group: list[Pair]) -> bool:
    first = group[0].load_b()
    equal = all(bits_equal(first, pair.load_b()) for pair in group[1:])
    for pair in group:
        pair.release()
    return equal


def _copy(group: list[Pair]) -> Finding:
    tied = _all_equal_in_reference(group)
    return Finding(
        kind="weights",
        name=group[0].name,
        detail=f"{listed(pair.name for pair in group)} are equal to the bit in the candidate"
        + (", as in the reference" if tied else ", but not in the reference"),
        component=record_component(group[0].name),
    )


def _all_equal_in_reference(group: list[Pair]) -> bool:
    if any(pair.a is None for pair in group):
        return False
    first = group[0].load_a()
    return all(torch.equal(first, pair.load_a()) for pair in group[1:])
