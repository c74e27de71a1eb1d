"""How much of what two sides have was held against each other: the rule on coverage in README.md.

What is missing here is no difference that was found, but one that nobody looked for, so that with
anything missing no verdict is a pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from harness.records import Coverage, Evidence, PipelineRecord

LISTED = 8
"""Names of what is missing that a sentence lists."""


def of_pipelines(reference: PipelineRecord, candidate: PipelineRecord) -> list[Coverage]:
    """Components, weights and settings of two opened pipelines.

    A component that only one side has, or of which one side states no weight, is missing. Weights that
    only one side has are findings of the exact gate; here they count as not compared. Settings count
    where both sides have them: a setting that one code base has no word for is part of what its stages
    compute, and these are compared as functions.
    """
    mine, other = (_components(side) for side in (reference, candidate))
    shared_weights = reference.weights.keys() & candidate.weights.keys()
    weighed = {name.partition(".")[0] for name in shared_weights}
    settings = reference.configs.keys() & candidate.configs.keys()
    return [
        _row("components", mine | other, weighed, "only one side has it, or states its weights"),
        _row(
            "weights",
            reference.weights.keys() | candidate.weights.keys(),
            shared_weights,
            "only one side has it",
        ),
        Coverage(kind="settings", compared=len(settings), total=len(settings)),
    ]


def of_checks(evidence: Sequence[Evidence]) -> list[Coverage]:
    """The checks of the chain; a noted one is no check."""
    asked = [e for e in evidence if e.outcome != "noted"]
    open_ = [e for e in asked if e.outcome == "unscored"]
    return [
        Coverage(
            kind="checks",
            compared=len(asked) - len(open_),
            total=len(asked),
            missing=[f"{e.check}: {e.detail}" for e in open_],
        )
    ]


def of_runs(frames: Mapping[int, tuple[int, int]]) -> list[Coverage]:
    """The native runs, one a seed, and their frames; `frames` maps a seed to (compared, total)."""
    short = {seed: counts for seed, counts in frames.items() if counts[0] < counts[1]}
    return [
        Coverage(kind="seeds", compared=len(frames), total=len(frames)),
        Coverage(
            kind="frames",
            compared=sum(compared for compared, _ in frames.values()),
            total=sum(total for _, total in frames.values()),
            missing=[
                f"seed {seed}: {total - compared} frames on one side only"
                for seed, (compared, total) in short.items()
            ],
        ),
    ]


def not_compared(coverage: Sequence[Coverage]) -> list[str]:
    """One sentence for each kind of which something is missing."""
    return [
        f"{row.total - row.compared} of {row.total} {row.kind} were not compared:"
        f" {_listed(row.missing)}."
        for row in coverage
        if row.compared < row.total or row.missing
    ]


def _row(kind: str, names: Iterable[str], compared: Iterable[str], why: str) -> Coverage:
    every, seen = set(names), set(compared)
    missing = sorted(every - seen)
    return Coverage(
        kind=kind,
        compared=len(every) - len(missing),
        total=len(every),
        missing=[f"{name} ({why})" for name in missing],
    )


def _components(pipeline: PipelineRecord) -> set[str]:
    return {*pipeline.dtypes, *(name.partition(".")[0] for name in pipeline.weights)}


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return "; ".join(names[:LISTED]) + more
