"""One command, many configurations: Hydra's own multirun, with every launcher that it has.

Each job leaves `outcome.json` in its folder below the sweep's, because a launcher may carry it out
in another process or on another machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from unittest.mock import patch

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from harness.audit.hazards import hazards
from harness.commands.request import Job, Request, warning
from harness.config.compose import (
    CONFIG_NAME,
    VERSION_BASE,
    compose_tree,
    search_path_override,
    split_sweep,
    sweep_folder,
    to_tree,
)
from harness.config.config import RunConfig, build
from harness.doctor.environment import check_installed
from harness.errors import (
    EXIT_DIFFERENT,
    EXIT_EQUIVALENT,
    EXIT_UNDECIDED,
    EXIT_USAGE,
    DiskFullError,
    ParityError,
)
from harness.failures import EXIT_INTERRUPTED, guarded
from harness.render.board import Board
from harness.render.finished import Outcome, fingerprint, recall, remember
from harness.render.plan import make_plan
from harness.render.runner import SweepShare, now
from harness.store.runs import at_work
from harness.store.store import Store, content_key

_WORST_FIRST = (EXIT_DIFFERENT, EXIT_USAGE, EXIT_UNDECIDED, EXIT_EQUIVALENT)


class _DiskIsFull(BaseException):
    """Ends a sweep, which an exception would not: Hydra goes on with the next job after one."""


def sweep(
    request: Request, folders: Sequence[Path], job: Job, verb: str, *, again: bool = False
) -> int:
    """Carry out every combination; return the worst exit code: 1 before 2 before 3 before 0.

    All configurations are composed and checked before the first render. What was finished before
    is not done again, unless `again`: if that is all, nothing is launched.
    """
    jobs = split_sweep(request.overrides, folders)
    configs = [build(compose_tree(overrides, folders)) for overrides in jobs]
    check_installed(configs)
    for line in dict.fromkeys(map(warning, chain.from_iterable(map(hazards, configs)))):
        print(line, file=sys.stderr)
    stores = {config.store: Store(config.store) for config in configs}
    memory = _Memory(verb, request.plugins, again)
    finished = [memory.recall(config, stores[config.store]) for config in configs]
    if all(finished):
        outcomes = [outcome for outcome in finished if outcome is not None]
        return _summarise(f"nothing to do, all {len(jobs)} jobs were finished before", outcomes, 0)
    folder = sweep_folder(jobs[0], folders).resolve()
    request = replace(request, sweep=_share(configs, folder))

    @hydra.main(version_base=VERSION_BASE, config_path=str(folders[0]), config_name=CONFIG_NAME)
    def task(config: DictConfig) -> None:
        _carry_out(config, request, job, memory)

    arguments = ["parity", "--multirun", *search_path_override(folders), *request.overrides]
    full = False
    with ExitStack() as stack:
        stack.enter_context(patch.object(sys, "argv", [*arguments, f"hydra.sweep.dir='{folder}'"]))
        for store in stores.values():
            stack.enter_context(at_work(store))  # renders made for a later job are no run's yet
        try:
            task()
        except SystemExit as stop:
            raise ParityError("the sweep could not be started; Hydra says above why") from stop
        except _DiskIsFull:
            full = True
    outcomes = [json.loads(path.read_text()) for path in sorted(folder.glob("*/outcome.json"))]
    heading = f"{len(outcomes)} of {len(jobs)} jobs finished; {folder}"
    return _summarise(heading, outcomes, len(jobs) - len(outcomes) + full)


def _share(configs: Sequence[RunConfig], folder: Path) -> SweepShare:
    plans = [make_plan(config).jobs for config in configs]
    different = {content_key(asdict(render)): render for plan in plans for render in plan}
    since = now()
    board = Board(folder / "progress", len(different), since)
    return SweepShare(since, tuple(different.values()), board)


@dataclass(frozen=True)
class _Memory:
    """Which jobs were finished before."""

    verb: str
    plugins: tuple[str, ...]
    again: bool

    def recall(self, config: RunConfig, store: Store) -> Outcome | None:
        key = None if self.again else fingerprint(self.verb, config, self.plugins, store)
        return None if key is None else recall(store, key)

    def remember(self, config: RunConfig, outcome: Outcome) -> None:
        if outcome["exit_code"] in (EXIT_USAGE, EXIT_INTERRUPTED):
            return
        store = Store(config.store)
        key = fingerprint(self.verb, config, self.plugins, store)
        if key is not None:
            remember(store, key, outcome)


def _carry_out(config: DictConfig, request: Request, job: Job, memory: _Memory) -> None:
    hydra_config = HydraConfig.get()
    overrides = list(hydra_config.overrides.task)
    print(f"parity: job {hydra_config.job.num}: {' '.join(overrides)}", flush=True)
    full = False

    def once() -> int:
        nonlocal full
        typed = build(to_tree(config))
        if (before := memory.recall(typed, Store(typed.store))) is not None:
            print(f"finished before, by {before['command']}")
            return before["exit_code"]
        try:
            exit_code = job(typed, request)
        except DiskFullError:
            full = True
            raise
        memory.remember(typed, _outcome(overrides, exit_code, request))
        return exit_code

    exit_code = guarded(once)
    if full:
        raise _DiskIsFull
    if exit_code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    path = Path(hydra_config.runtime.output_dir) / "outcome.json"
    path.write_text(json.dumps(_outcome(overrides, exit_code, request)))


def _outcome(overrides: list[str], exit_code: int, request: Request) -> Outcome:
    return {"overrides": overrides, "exit_code": exit_code, "command": " ".join(request.command)}


def _summarise(heading: str, outcomes: Sequence[Outcome], unfinished: int) -> int:
    print(f"sweep: {heading}")
    for outcome in outcomes:
        print(f"  exit code {outcome['exit_code']}: {' '.join(outcome['overrides'])}")
    codes = {outcome["exit_code"] for outcome in outcomes}
    if unfinished:
        codes.add(EXIT_USAGE)
    return next(code for code in _WORST_FIRST if code in codes)
