"""One pair as the procedure goes through it: what it is given, and what is known of it so far."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from backends.base import Case
from harness.config.config import JudgeSettings
from harness.judge.blocks import Place
from harness.judge.measured import LocalData
from harness.probe.prober import Prober, Target
from harness.records import Component, Coverage, Evidence, Finding, PipelineRecord, RenderRecord
from harness.store.store import Store

ROLES = ("reference", "candidate")


@dataclass
class Comparison:
    """What the stages of the procedure need, and what they found.

    `case` is what both sides render, `reference` and `candidate` how each is opened, `renders` their
    finished renders, (reference, candidate) for each seed, and none for `parity probe`. `equalising` is
    the control that gives the reference what a registered difference has on the candidate's side
    (`harness.judge.known`), None without one. `opened` are both pipelines as they were opened first.
    `as_run` are the two as they rendered: `reference` and `candidate` are without what makes a step
    depend on the steps before it, since stages are asked alone.

    `evidence` is the chain of checks: audits, then the stages in their order; `findings` is what audits
    name. `data` are
    the answers of the stages, None where they could not be asked; the evidence says why. `given` is
    the part of it about what the native loops hand to their components. `places` are the first wrong
    modules; `shares` those of the registered differences in the gap, by id, where they were worked
    out. `guided_calls` were made for this pair, `locating_calls` of them for the place of a difference.
    """

    prober: Prober
    store: Store
    case: Case
    reference: Target
    candidate: Target
    renders: Sequence[tuple[RenderRecord, RenderRecord]]
    settings: JudgeSettings
    equalising: str | None
    opened: tuple[PipelineRecord, PipelineRecord]
    as_run: tuple[Target, Target]

    evidence: list[Evidence] = field(default_factory=list[Evidence])
    findings: list[Finding] = field(default_factory=list[Finding])
    coverage: list[Coverage] = field(default_factory=list[Coverage])
    data: LocalData | None = None
    given: list[Evidence] = field(default_factory=list[Evidence])
    places: dict[Component, Place] = field(default_factory=dict[Component, Place])
    shares: Mapping[str, float] = field(default_factory=dict[str, float])
    guided_calls: int = 0
    locating_calls: int = 0

    @property
    def sides(self) -> tuple[Target, Target]:
        """Reference and candidate."""
        return self.reference, self.candidate

    @property
    def across_steps(self) -> bool:
        """Whether a step of the native runs depends on the steps before it, so that no stage asked alone
        gives what it gave."""
        return self.sides != self.as_run

    @property
    def pipelines(self) -> tuple[PipelineRecord, PipelineRecord]:
        """Both pipelines, at equal precision where they were asked."""
        if self.data is None:
            return self.opened
        return self.data.reference.full.pipeline, self.data.candidate.full.pipeline

    def asked(self) -> LocalData:
        """The answers of the stages. Raises `ValueError` before they were asked."""
        if self.data is None:
            raise ValueError("no stage of this pair was asked")
        return self.data

    def add(self, evidence: Iterable[Evidence]) -> None:
        """Append to the chain."""
        self.evidence.extend(evidence)

    def unscored(self, error: Exception) -> None:
        """A stage that could not be carried out: with it in the chain there is no pass."""
        detail = f"a probe could not be made: {error}"
        self.add([Evidence(stage="collapse", check="probe", outcome="unscored", detail=detail)])

    @contextmanager
    def counting(self) -> Generator[None]:
        """Count the guided calls that are made within."""
        before = self.prober.fresh_calls
        try:
            yield
        finally:
            self.guided_calls += self.prober.fresh_calls - before

    @contextmanager
    def locating(self) -> Generator[None]:
        """Count them as spent on the place of a difference, too; within `counting`."""
        before = self.prober.fresh_calls
        try:
            yield
        finally:
            self.locating_calls += self.prober.fresh_calls - before
