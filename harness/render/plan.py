"""From a typed configuration to the list of renders, in the order in which they are carried out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from backends.base import Case, TraceOptions, Variant
from harness.config.config import RunConfig, VariantSpec
from harness.store.store import content_key
from harness.verdict.matching import match

Role = Literal["reference", "rerun", "candidate", "member"]


@dataclass(frozen=True)
class RenderJob:
    """One render to be carried out: what, how, where, and what it takes from the reference.

    `share` names the factors taken from the reference's inputs (see `backends.worker.worker`); it is
    empty for the reference and its rerun. `repeat` counts a variant's renders in fresh processes.
    `member` is the healthy member (`backends.stages.healthy`) that the reference is rendered as.
    `source` is equal for jobs whose inputs come from the same reference and case.
    """

    role: Role
    case: Case
    variant: Variant
    python: str | None
    threads: int | None
    seed: int
    repeat: int
    share: tuple[str, ...]
    trace: TraceOptions
    member: str = "plain"
    source: str = ""

    @property
    def exports(self) -> bool:
        """Whether the inputs of this render are those that the candidates share."""
        return self.role == "reference"

    @property
    def label(self) -> str:
        """The variant's name for people and file names, with the rerun told apart."""
        if self.role == "member":
            return f"{self.variant.name} ({self.member})"
        return f"{self.variant.name}-rerun" if self.role == "rerun" else self.variant.name


@dataclass(frozen=True)
class Plan:
    """Every render of a run: the reference first, then its rerun, then candidate after candidate.

    Within one of these, jobs are grouped by model, so that a worker opens each model once.
    """

    jobs: tuple[RenderJob, ...]


def probe_steps(steps: int) -> list[int]:
    """The solver steps whose tensors are kept: {0, 1, N/4, N/2, 3N/4, N-1} of N.

    The first and the last are mandatory: zero-terminal-SNR and final-alpha faults live there.

    >>> probe_steps(50)
    [0, 1, 12, 25, 37, 49]
    >>> probe_steps(1)
    [0]
    """
    wanted = {0, 1, steps // 4, steps // 2, 3 * steps // 4, steps - 1}
    return sorted(step for step in wanted if step < steps)


def make_plan(config: RunConfig) -> Plan:
    """Cross cases, variants and seeds; every reference that a candidate is matched with comes first."""
    matched = [match(config.reference, candidate) for candidate in config.candidates]
    references = {m.spec.name: (m.spec, m.case) for m in matched}
    jobs = list[RenderJob]()
    for spec, case in {config.reference.name: (config.reference, {}), **references}.values():
        jobs += _jobs(config, "reference", spec, case, spec)
        if config.judge.rerun and spec.name in references:
            jobs += _jobs(config, "rerun", spec, case, spec)
    for candidate, mine in zip(config.candidates, matched, strict=True):
        share = candidate.match.share
        jobs += _jobs(config, "candidate", candidate, candidate.case, mine.spec, share)
    return Plan(tuple(jobs))


def member_jobs(
    plan: Plan, cases: Collection[str], reference: str, members: Sequence[str], variant: Variant
) -> Plan:
    """The `reference` of `plan` rendered as each healthy member, for `cases` at every seed.

    `variant` is the reference's, or the reference at the precision that a candidate runs in.
    """
    return Plan(
        tuple(
            replace(job, role="member", member=member, variant=variant)
            for job in plan.jobs
            for member in members
            if job.role == "reference" and job.variant.name == reference and job.case.name in cases
        )
    )


def _jobs(
    config: RunConfig,
    role: Role,
    spec: VariantSpec,
    changed: Mapping[str, Any],
    reference: VariantSpec,
    share: tuple[str, ...] = (),
) -> list[RenderJob]:
    """`spec` for every case with the settings `changed`, as it takes its inputs from `reference`."""
    models = list(dict.fromkeys(case.model for case in config.cases))
    return [
        RenderJob(
            role=role,
            case=replace(case, **changed),
            variant=Variant(spec.name, spec.backend, spec.options, spec.patch),
            python=spec.python,
            threads=spec.threads,
            seed=seed,
            repeat=1 if role == "rerun" else 0,
            share=share,
            trace=_trace(replace(case, **changed), config.trace.full),
            source=content_key(
                {"case": asdict(replace(case, **changed)), "reference": reference.model_dump()}
            ),
        )
        for model in models
        for case in config.cases
        if case.model == model
        for seed in config.seeds
    ]


def _trace(case: Case, full: bool) -> TraceOptions:
    return TraceOptions(list(range(case.solver_steps)) if full else probe_steps(case.solver_steps))
