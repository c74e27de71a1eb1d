"""Run rows of the catalogue through the whole procedure, in this process, and keep what came out.

One line of JSON a row, appended as it is known, so that a measurement goes on where it was stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from harness.config.compose import compose_tree
from harness.config.config import RunConfig, build
from harness.config.folders import conf_folders
from harness.errors import ParityError
from harness.records import Component, PairResult, Record, VerdictName
from harness.render.frames import read_frames
from harness.render.kept import read_trace
from harness.render.plan import make_plan
from harness.render.runner import ExecutionSettings, render
from harness.store.store import Store
from harness.verdict import session
from harness.workers.connect import in_process
from tests.selftest.gates import Latents, usual_gates
from tests.selftest.margins import margins
from tests.selftest.row import Fault, Healthy
from tests.selftest.setting import Setting

CAUGHT: frozenset[VerdictName] = frozenset({"bug", "broken"})


class Outcome(Record):
    """What the procedure made of one row.

    `named` are the components of its findings in their order, `blocks` the modules. `gates` holds
    what the usual gates say of the same renders (True = different), empty where there are none;
    `margins` is each check's value / limit. `error` is set where the run itself failed. Of the
    `guided_calls`, `locating_calls` went into finding the place of a difference. `key` is the setting
    that is wrong, where the fault is one of a setting, and `key_found` whether a finding names it.
    """

    id: str
    faulty: bool
    kind: str
    expected: list[VerdictName]
    verdict: VerdictName | None
    right: bool
    named: list[Component]
    place: list[Component]
    block: str | None
    blocks: list[str]
    detail: str
    guided_calls: int
    locating_calls: int = 0
    seconds: float
    gates: dict[str, bool]
    margins: dict[str, float]
    error: str | None = None
    key: str | None = None
    key_found: bool = False


class _Quiet:
    """A progress sink that shows nothing."""

    def start(self, total: int) -> None: ...
    def render_started(self, label: str) -> None: ...
    def render_finished(self, label: str, status: str, seconds: float) -> None: ...


def known(path: Path) -> dict[str, Outcome]:
    """The outcomes that a file holds, by row."""
    if not path.is_file():
        return {}
    lines = path.read_text().splitlines()
    found = [Outcome.model_validate_json(line) for line in lines if line]
    return {outcome.id: outcome for outcome in found}


def measure(
    rows: Iterable[Fault | Healthy], path: Path, work: Path, gates: bool = True
) -> Iterator[Outcome]:
    """Run every row that `path` lacks; yield and append its outcome. `work` holds store and runs.

    Without `gates` nothing is said of the usual gates, one of which renders the reference in float64.
    """
    done = known(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for row in rows:
        if row.id in done:
            yield done[row.id]
            continue
        outcome = _run(row, work, gates)
        with path.open("a") as stream:
            stream.write(json.dumps(outcome.model_dump(mode="json")) + "\n")
        yield outcome


def configuration(overrides: Sequence[str], work: Path) -> RunConfig:
    """The run of a row, its store and results in `work`."""
    settings = (f"store={work / 'store'}", f"results={work / 'results'}", "metrics=[psnr]")
    single = ("reference.threads=1", "judge.rerun=false")
    return build(compose_tree((*settings, *single, *overrides), conf_folders(None)))


def judged(
    overrides: Sequence[str], plugin: str | None, work: Path
) -> tuple[RunConfig, PairResult]:
    """Carry out a row's run. Raises `ParityError`."""
    config = configuration(overrides, work)
    plugins = [plugin] if plugin is not None else []
    _, result = session.run(config, plugins, ["selftest"], _Quiet(), connect=in_process)
    if result is None:
        raise ParityError("the run ended without verdicts")
    return config, result.pairs[0]


def named(pair: PairResult) -> list[Component]:
    """The components of its findings, in their order."""
    return [f.component for f in pair.findings if f.kind == "component" and f.component]


def _run(row: Fault | Healthy, work: Path, usual: bool) -> Outcome:
    faulty = isinstance(row, Fault)
    started = time.perf_counter()
    extra = ("seeds=[0,1]",) if faulty and row.second_render is not None else ()
    expected = list(row.expected if faulty else row.acceptable)
    blank = Outcome(
        id=row.id, faulty=faulty, kind=row.kind, expected=expected, verdict=None, right=False,
        named=[], place=[row.component, *row.also] if faulty else [],
        block=row.block if faulty else None, blocks=[], detail="", guided_calls=0, seconds=0.0,
        gates={}, margins={}, key=row.config_key if faulty else None,
    )  # fmt: skip
    try:
        config, pair = judged((*extra, *row.overrides), row.plugin, work)
        gates = _gates(config, pair, row, work) if usual else {}
    except ParityError as error:
        return blank.model_copy(update={"error": str(error)})
    return blank.model_copy(
        update={
            "verdict": pair.verdict,
            "right": pair.verdict in expected,
            "named": named(pair),
            "blocks": [f.block for f in pair.findings if f.kind == "component" and f.block],
            "detail": pair.summary,
            "key_found": any(f.name == blank.key for f in pair.findings),
            "guided_calls": pair.cost_guided_calls,
            "locating_calls": pair.cost_locating_calls,
            "seconds": time.perf_counter() - started,
            "gates": gates,
            "margins": margins(pair),
        }
    )


def _gates(
    config: RunConfig, pair: PairResult, row: Fault | Healthy, work: Path
) -> dict[str, bool]:
    store = Store(config.store)
    seed = pair.seeds[-1]
    a = store.find(pair.renders["reference"].get(seed, ""))
    b = store.find(pair.renders["candidate"].get(seed, ""))
    if a is None or b is None:
        return {}
    x, y = (read_frames(store.render_folder(r.key) / "frames.mkv") for r in (a, b))
    final_x, final_y = (read_trace(store, r)["final_latents"] for r in (a, b))
    precise = None if row.setting.reference == "sat" else _precise(row.setting, seed, work)
    return usual_gates(x, y, final_x, final_y, precise, config.cases[0].fps)


def _precise(setting: Setting, seed: int, work: Path) -> Latents:
    """The reference's final latents in float64; rendered once for all rows that share them."""
    config = configuration((*setting.precise(), f"seeds=[{seed}]"), work)
    store, settings = Store(config.store), ExecutionSettings(config.timeout_s, (), work, in_process)
    rendered = render(make_plan(config), store, settings, _Quiet())
    record = next(record for job, record in rendered if job.role == "candidate")
    if record.status != "ok":
        raise ParityError(f"the reference did not render in float64: {record.message}")
    return read_trace(store, record)["final_latents"]
