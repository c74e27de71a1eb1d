"""The typed configuration of a run, built from what the YAML files and the command line say.

    conf/*.yaml, overrides --compose--> plain tree --build--> RunConfig --make_plan--> Plan

Every check that needs no model and no device is made here, so that a mistake costs a second and not
an hour. Each ends in a `ConfigError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field

from backends.base import Case
from harness.config.checks import (
    check_backend,
    check_case,
    check_dtypes,
    check_frames,
    check_interpreter,
    check_name,
    check_options,
    check_words,
    typed,
)
from harness.errors import ConfigError
from harness.metrics import MetricConfigError, build_options
from harness.records import Record

Sharing = Literal["shared", "own"]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Threads = Annotated[int, Field(ge=1, le=1024)]

VARIANT_KEYS = frozenset({"backend", "patch", "python", "threads"})
"""What is not a backend's option in the flat mapping of `conf/backend/<name>.yaml`."""


class Match(Record):
    """Which factors the candidate takes from the reference; the rest is its own stack's policy.

    `noise` is always shared: without the common tape equal seeds would not mean equal noise. `image`
    is the multiplier of a conditioning picture's latents; it says nothing about models without one.
    """

    noise: Literal["shared"]
    text: Sharing
    unconditional: Sharing
    schedule: Sharing
    latent_dtype: Sharing
    image: Sharing

    @property
    def share(self) -> tuple[str, ...]:
        """The factors to take from the inputs that the reference exports."""
        factors = self.model_dump(exclude={"noise"})
        return tuple(factor for factor, sharing in factors.items() if sharing == "shared")


class VariantSpec(Record):
    """One way to render, and where its worker runs.

    `python` is the worker's interpreter, None for this one; `threads` None is torch's own choice.
    """

    name: str
    backend: str
    options: dict[str, Any]
    patch: str | None = None
    python: str | None = None
    threads: Threads | None = None


class CandidateSpec(VariantSpec):
    """A variant that is compared with the reference under its own match.

    `case` holds settings of the case that this candidate changes, as {sampler: ddim}.
    """

    match: Match
    case: dict[str, Any] = Field(default_factory=dict)


class JudgeSettings(Record):
    """How a verdict is reached; `conf/judge/default.yaml` says what each setting means."""

    rerun: bool
    probe: bool
    probe_seeds: Annotated[tuple[Seed, ...], Field(min_length=2)]
    calibration_seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    ensemble: tuple[str, ...]
    max_seeds: Annotated[int, Field(ge=1, le=10_000)]
    shares: bool = True
    allow_unsupported: bool = False


class TraceSettings(Record):
    """`full`: keep full tensors at every step instead of the probe steps only."""

    full: bool


class RunConfig(Record):
    """Everything that one run does. `match` is that of candidates which name none of their own."""

    cases: tuple[Case, ...]
    reference: VariantSpec
    candidates: tuple[CandidateSpec, ...]
    seeds: tuple[int, ...]
    match: Match
    metrics: dict[str, dict[str, Any]]
    judge: JudgeSettings
    trace: TraceSettings
    store: Path
    results: Path
    timeout_s: float


class _Tree(Record):
    """The composed YAML: names are keys here, and a variant's options lie beside its own keys."""

    cases: dict[str, dict[str, Any]]
    reference: dict[str, Any]
    candidates: dict[str, dict[str, Any]]
    seeds: list[Seed]
    match: Match
    metrics: dict[str, dict[str, Any]]
    judge: JudgeSettings
    trace: TraceSettings
    store: Path
    results: Path
    timeout_s: Annotated[float, Field(gt=0, le=1e7, allow_inf_nan=False)]


# What Hydra would put at a key named after the group without the file's own first line.
_PACKAGES = {
    "case": "cases.<name>",
    "candidate": "candidates.<name>",
    "experiment": "_global_",
}


def build(composed: Mapping[str, Any]) -> RunConfig:
    """Check a composed configuration and turn it into records. Raises `ConfigError`."""
    for group, package in _PACKAGES.items():
        if group in composed:
            raise ConfigError(
                f"a file of the group `{group}` does not say where its values belong; its first line"
                f" must be `# @package {package}`"
            )
    check_words("", dict(composed))
    if isinstance(composed.get("seeds"), int):
        composed = {**composed, "seeds": [composed["seeds"]]}  # as in a sweep over `seeds=0,1,2`
    # Lists and mappings are empty, or absent, when nothing was chosen.
    tree: _Tree = typed("", _Tree, {"cases": {}, "candidates": {}, "metrics": {}, **composed})
    _check_something_to_compare(tree)
    config = RunConfig(
        cases=tuple(check_case(name, values) for name, values in tree.cases.items()),
        reference=_reference(tree.reference),
        candidates=tuple(
            _candidate(name, values, tree.match) for name, values in tree.candidates.items()
        ),
        seeds=tuple(tree.seeds),
        match=tree.match,
        metrics=tree.metrics,
        judge=tree.judge,
        trace=tree.trace,
        store=tree.store,
        results=tree.results,
        timeout_s=tree.timeout_s,
    )
    _check_own_cases(tree, config)
    _check_metrics(config.metrics)
    _check_distinct(config)
    return config


def _check_something_to_compare(tree: _Tree) -> None:
    for key, remedy in (
        ("cases", "choose some with `case=[...]`"),
        ("candidates", "choose some with `candidate=[...]`"),
        ("seeds", "give at least one, as in `seeds=[0]`"),
        ("metrics", "choose some with `metrics=[...]`"),
    ):
        if not getattr(tree, key):
            raise ConfigError(f"nothing to compare: there are no {key}; {remedy}")


def _variant(where: str, values: Mapping[str, Any], *further: str) -> dict[str, Any]:
    """Split a flat variant into its own keys, the keys named in `further`, and backend options."""
    own = {*VARIANT_KEYS, *further}
    check_backend(where, values.get("backend"))
    options = {key: value for key, value in values.items() if key not in own}
    check_dtypes(where, options)
    check_options(where, values["backend"], options)
    return {**{key: values[key] for key in own if key in values}, "options": options}


def _reference(values: Mapping[str, Any]) -> VariantSpec:
    parts = _variant("reference", values, "name")
    spec: VariantSpec = typed("reference", VariantSpec, {"name": "reference", **parts})
    check_interpreter("reference", spec.python)
    return spec


def _candidate(name: str, values: Mapping[str, Any], match: Match) -> CandidateSpec:
    where = f"candidates.{name}"
    check_name("candidate", name)
    parts = _variant(where, values, "match", "case")
    parts["case"] = _own_case(where, parts.get("case"))
    own_match = parts.pop("match", None) or {}
    if not isinstance(own_match, Mapping):
        raise ConfigError(
            f"`{where}.match`: got {own_match!r}, expected factors, as in {{schedule: own}}; for a"
            f" whole file write +match@{where}.match=native"
        )
    merged: Match = typed(f"{where}.match", Match, {**match.model_dump(), **own_match})
    given = {**parts, "name": name, "match": merged.model_dump()}
    spec: CandidateSpec = typed(where, CandidateSpec, given)
    check_interpreter(where, spec.python)
    return spec


def _own_case(where: str, values: Any) -> dict[str, Any]:
    """The settings of the case that a candidate changes."""
    if values is None:
        return {}
    if not isinstance(values, Mapping) or {"model", "name"} & set(cast("dict[str, Any]", values)):
        raise ConfigError(
            f"`{where}.case`: got {values!r}, expected settings of the case other than its model, as in"
            " {sampler: ddim}"
        )
    return dict(cast("Mapping[str, Any]", values))


def _check_own_cases(tree: _Tree, config: RunConfig) -> None:
    """What a candidate makes of each case must be a case that can be run, by it and the reference."""
    reference = config.reference.backend
    for candidate in config.candidates:
        for name, values in tree.cases.items():
            own = check_case(name, {**values, **candidate.case})
            check_frames(own, {reference, candidate.backend})
    for case in config.cases:
        check_frames(case, {spec.backend for spec in (config.reference, *config.candidates)})


def _check_metrics(metrics: Mapping[str, Mapping[str, Any]]) -> None:
    for name, options in metrics.items():
        try:
            build_options(name, options)
        except MetricConfigError as error:
            raise ConfigError(str(error)) from error


def _check_distinct(config: RunConfig) -> None:
    """Rows of a report are told apart by these names."""
    check_name("reference", config.reference.name)
    for candidate in config.candidates:
        if candidate.name in (config.reference.name, f"{config.reference.name}-rerun"):
            raise ConfigError(
                f"candidate {candidate.name!r} has the name of the reference or its rerun, so their"
                " results could not be told apart; rename one, as in"
                f" reference.name={candidate.name}_reference"
            )
    if repeated := sorted({seed for seed in config.seeds if config.seeds.count(seed) > 1}):
        raise ConfigError(
            f"`seeds` repeats {repeated}; equal seeds give equal renders, not evidence"
        )
