"""Compare two things from Python: variants by name, pipelines of the contract, Diffusers pipelines.

The same plan, runner and judge as `parity run`; what exists only as an object of the caller's is
answered for in this process.
"""

from __future__ import annotations

import secrets
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from backends import registry
from backends.base import Case
from backends.stages.given import GivenBackend
from harness.config.checks import check_name, typed
from harness.config.config import CandidateSpec, RunConfig, VariantSpec, build
from harness.config.folders import conf_folders
from harness.errors import ConfigError, ParityError
from harness.records import PairResult, RenderRecord, RunResult
from harness.render.plan import Plan, make_plan
from harness.render.runner import ExecutionSettings, render
from harness.store.runs import at_work
from harness.store.store import Store
from harness.verdict import session
from harness.workers.connect import in_own_process, in_process

IN_MEMORY = "in-memory/pipeline"
"""The model of a case that is rendered by objects alone."""


@dataclass(frozen=True)
class Comparison:
    """The result of one pair and the run folder that it lies in."""

    folder: Path
    result: RunResult
    store: Path

    @property
    def pair(self) -> PairResult:
        """The one pair."""
        return self.result.pairs[0]


@dataclass(frozen=True)
class Places:
    """Where runs and renders are kept, and the folder of the caller's own configuration files."""

    results: Path
    store: Path
    config_dir: Path | None = None


def compare(
    reference: object,
    candidate: object,
    *,
    case: str | Case | Mapping[str, Any],
    seeds: Sequence[int],
    places: Places,
    settings: Sequence[str] = (),
    names: tuple[str, str] = ("reference", "candidate"),
    command: Sequence[str] = (),
) -> Comparison:
    """Render, score and judge one pair.

    `reference` and `candidate` are a variant's name in `conf/`, or what `backends.stages.given` takes.
    `case` is a case's name, a `Case`, or a mapping with the fields that differ from the case
    `micro_5b_quick`. `settings` are Hydra overrides such as `match=native`; `names` is what objects
    are called. Objects are never looked up in the store. Raises `ParityError` for a mistake.
    """
    objects = not (isinstance(reference, str) and isinstance(candidate, str))
    with _configured(reference, candidate, case, seeds, places, settings, names) as config:
        folder, result = session.run(
            config,
            plugins=(),
            command=command or ("pytest",),
            progress=_Silent(),
            connect=in_process if objects else in_own_process,
            same_object=objects and reference is candidate,
        )
    if result is None:
        raise ParityError(f"the run in {folder} ended without verdicts")
    return Comparison(folder, result, config.store)


def render_alone(
    thing: object,
    *,
    case: str | Case | Mapping[str, Any],
    seeds: Sequence[int],
    places: Places,
    settings: Sequence[str] = (),
) -> tuple[Store, list[RenderRecord]]:
    """Render one thing with nothing to compare it with; the records in the order of `seeds`.

    Arguments as for `compare`.
    """
    names = ("rendered", "unused")
    with (
        _configured(thing, "diffusers", case, seeds, places, settings, names) as config,
        TemporaryDirectory(prefix="parity-logs-") as logs,
    ):
        jobs = make_plan(config).jobs
        name = config.reference.name
        plan = Plan(
            tuple(job for job in jobs if job.role == "reference" and job.variant.name == name)
        )
        connect = in_own_process if isinstance(thing, str) else in_process
        execution = ExecutionSettings(config.timeout_s, (), Path(logs), connect)
        store = Store(config.store)
        with at_work(store):
            return store, [record for _, record in render(plan, store, execution, _Silent())]


@contextmanager
def _configured(
    reference: object,
    candidate: object,
    case: str | Case | Mapping[str, Any],
    seeds: Sequence[int],
    places: Places,
    settings: Sequence[str],
    names: tuple[str, str],
) -> Generator[RunConfig]:
    from harness.config.compose import compose_tree

    overrides = [f"seeds={list(seeds)}", *settings]
    overrides += [f"case=[{case}]"] if isinstance(case, str) else ["case=[micro_5b_quick]"]
    if isinstance(reference, str):
        overrides.append(f"reference={reference}")
        if reference == candidate:
            overrides.append(f"reference.name={reference}_reference")
    else:
        overrides.append(f"reference.name={names[0]}")
    if isinstance(candidate, str):
        overrides.append(f"candidate=[{candidate}]")
    tree = compose_tree(overrides, conf_folders(places.config_dir))
    config = build({**tree, "store": str(places.store), "results": str(places.results)})
    changed: dict[str, Any] = {}
    if not isinstance(case, str):
        changed["cases"] = (_case(case, config.cases[0], not isinstance(reference, str)),)
    with ExitStack() as stack:
        if not isinstance(reference, str):
            options = _lend(stack, names[0], reference)
            changed["reference"] = VariantSpec(
                name=names[0], backend=options["object"], options=options
            )
        if not isinstance(candidate, str):
            options = _lend(stack, names[1], candidate)
            changed["candidates"] = (
                CandidateSpec(
                    name=names[1], backend=options["object"], options=options, match=config.match
                ),
            )
        yield config.model_copy(update=changed)


def _lend(stack: ExitStack, name: str, thing: object) -> dict[str, Any]:
    """Lend `thing` to the registry under a name of its own, which keeps its renders apart."""
    check_name("object", name)
    backend = GivenBackend(thing)
    lent = f"object-{name}-{secrets.token_hex(8)}"
    stack.enter_context(registry.lend(lent, backend))
    return {"object": lent, **backend.options}


def _case(case: Case | Mapping[str, Any], default: Case, in_memory: bool) -> Case:
    if isinstance(case, Case):
        return case
    base = asdict(replace(default, name="case", model=IN_MEMORY if in_memory else default.model))
    if unknown := case.keys() - base.keys():
        raise ConfigError(f"a case has no {sorted(unknown)}; it has {sorted(base)}")
    return typed("case", Case, base | dict(case))


class _Silent:
    def start(self, total: int) -> None: ...
    def render_started(self, label: str) -> None: ...
    def render_finished(self, label: str, status: str, seconds: float) -> None: ...
