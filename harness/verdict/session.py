"""One run from configuration to verdict: plan, render, score and judge, write, report."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from harness.audit.hazards import hazards
from harness.config.config import RunConfig
from harness.errors import (
    EXIT_DIFFERENT,
    EXIT_EQUIVALENT,
    EXIT_UNDECIDED,
    EXIT_USAGE,
    StoreError,
)
from harness.records import EQUIVALENT, NOT_EQUIVALENT, PairResult, RunResult
from harness.render.plan import make_plan
from harness.render.provenance import current_commit
from harness.render.runner import ExecutionSettings, ProgressSink, SweepShare, render
from harness.store.runs import note_renders, using
from harness.store.store import Store
from harness.verdict.pool import RenderPool
from harness.verdict.procedure import judge_probed, judge_rendered
from harness.verdict.repetition import with_repetition_said
from harness.workers.connect import Connector, in_own_process
from harness.workers.devices import hold_one_gpu

Until = Literal["render", "judge", "probe"]


def exit_code(pairs: Sequence[PairResult], allow_unsupported: bool = False) -> int:
    """0 all equivalent; 1 any bug or broken; 2 any error; 3 undecided, unsupported or none compared.

    With `allow_unsupported` a pair that cannot exist here does not make a run worse, as long as
    something else was compared.
    """
    verdicts = {pair.verdict for pair in pairs}
    if verdicts & NOT_EQUIVALENT:
        return EXIT_DIFFERENT
    if verdicts & {"error", "not_run"}:
        return EXIT_USAGE
    compared = verdicts - {"unsupported"} if allow_unsupported else verdicts
    return EXIT_EQUIVALENT if compared and compared <= EQUIVALENT else EXIT_UNDECIDED


def run(
    config: RunConfig,
    plugins: Sequence[str],
    command: Sequence[str],
    progress: ProgressSink,
    until: Until = "judge",
    connect: Connector = in_own_process,
    sweep: SweepShare | None = None,
    same_object: bool = False,
) -> tuple[Path, RunResult | None]:
    """Carry out a configuration; return the run folder and its result (None after `render`).

    `probe` renders nothing: the verdicts are local ones.

    Everything already in the store is reused. `verdict.json` appears whole or not at all, and
    `results/latest` points at the newest run that has one. `connect` starts the workers. `sweep` is
    there when this is one job of several, `same_object` where the caller gave one object of its own
    for both sides. Raises `ParityError`.
    """
    store, folder = Store(config.store), _new_folder(config.results)
    settings = ExecutionSettings(config.timeout_s, tuple(plugins), folder, connect)
    with using(store, folder):
        pairs = _pairs(config, store, settings, progress, until, sweep)
        if pairs is None:
            return folder, None
        pairs = with_repetition_said(config, pairs, same_object)
        result = RunResult(
            run=folder.name,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            command=list(command),
            config=config.model_dump(mode="json"),
            pairs=pairs,
            exit_code=exit_code(pairs, config.judge.allow_unsupported),
            commit=current_commit(Path.cwd()),
            hazards=hazards(config),
        )
        partial = folder / "verdict.json.partial"
        partial.write_text(result.model_dump_json(indent=1))
        partial.replace(folder / "verdict.json")
    _point_latest(config.results, folder)
    return folder, result


def _pairs(
    config: RunConfig,
    store: Store,
    settings: ExecutionSettings,
    progress: ProgressSink,
    until: Until,
    sweep: SweepShare | None,
) -> list[PairResult] | None:
    """Every pair's result; None after `render`. The store learns which renders were asked for."""
    plan, folder = make_plan(config), settings.run_folder
    hold_one_gpu([job.variant.options for job in plan.jobs])
    if until == "probe":
        return judge_probed(config, store, settings)
    rendered = render(plan, store, settings, progress, sweep)
    note_renders(store, folder, [record.key for _, record in rendered])
    if until == "render":
        return None
    pool = RenderPool(config, store, settings, progress, rendered)
    pairs = judge_rendered(config, pool, settings)
    note_renders(store, folder, pool.keys)
    return pairs


def _new_folder(results: Path) -> Path:
    stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    folder = results / "runs" / f"{stamp}-{secrets.token_hex(2)}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise StoreError(
            f"cannot create the run folder {folder}: {error.strerror}; set `results` to a folder"
            " that can be written"
        ) from error
    return folder


def _point_latest(results: Path, folder: Path) -> None:
    link, fresh = results / "latest", results / f".latest-{folder.name}"
    fresh.symlink_to(Path("runs") / folder.name)
    fresh.replace(link)
