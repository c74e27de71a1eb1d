"""One command, many configurations: Hydra's own multirun, with every launcher that it has.

Each job leaves `outcome.json` in its folder below the sweep's, because a launcher may carry it out
in another process or on another machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from harness.audit.hazards import hazards
from harness.commands.settings import Job, Request, warning
from harness.compose import (
    CONFIG_NAME,
    VERSION_BASE,
    compose_tree,
    search_path_override,
    split_sweep,
    sweep_folder,
    to_tree,
)
from harness.config import build
from harness.errors import (
    EXIT_DIFFERENT,
    EXIT_EQUIVALENT,
    EXIT_UNDECIDED,
    EXIT_USAGE,
    ParityError,
)
from harness.failures import EXIT_INTERRUPTED, guarded

_WORST_FIRST = (EXIT_DIFFERENT, EXIT_USAGE, EXIT_UNDECIDED, EXIT_EQUIVALENT)


def sweep(request: Request, folders: Sequence[Path], job: Job) -> int:
    """Carry out every combination; return the worst exit code: 1 before 2 before 3 before 0.

    All configurations are composed and checked before the first render.
    """
    jobs = split_sweep(request.overrides, folders)
    warnings: dict[str, None] = {}
    for overrides in jobs:
        found = hazards(build(compose_tree(overrides, folders)))
        warnings.update(dict.fromkeys(map(warning, found)))
    for line in warnings:
        print(line, file=sys.stderr)
    folder = sweep_folder(jobs[0], folders).resolve()

    @hydra.main(version_base=VERSION_BASE, config_path=str(folders[0]), config_name=CONFIG_NAME)
    def task(config: DictConfig) -> None:
        _carry_out(config, request, job)

    arguments = ["parity", "--multirun", *search_path_override(folders), *request.overrides]
    with patch.object(sys, "argv", [*arguments, f"hydra.sweep.dir='{folder}'"]):
        try:
            task()
        except SystemExit as stop:
            raise ParityError("the sweep could not be started; Hydra says above why") from stop
    return _summarise(folder, len(jobs))


def _carry_out(config: DictConfig, request: Request, job: Job) -> None:
    hydra_config = HydraConfig.get()
    overrides = list(hydra_config.overrides.task)
    print(f"parity: job {hydra_config.job.num}: {' '.join(overrides)}", flush=True)
    exit_code = guarded(lambda: job(build(to_tree(config)), request))
    if exit_code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    outcome = {"overrides": overrides, "exit_code": exit_code}
    (Path(hydra_config.runtime.output_dir) / "outcome.json").write_text(json.dumps(outcome))


def _summarise(folder: Path, expected: int) -> int:
    outcomes = [json.loads(path.read_text()) for path in sorted(folder.glob("*/outcome.json"))]
    print(f"sweep: {len(outcomes)} of {expected} jobs finished; {folder}")
    for outcome in outcomes:
        print(f"  exit code {outcome['exit_code']}: {' '.join(outcome['overrides'])}")
    codes = {outcome["exit_code"] for outcome in outcomes}
    if len(outcomes) < expected:
        codes.add(EXIT_USAGE)
    return next(code for code in _WORST_FIRST if code in codes)
