"""The commands that repeat a run, and one pair of it alone."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from harness.records import PairResult, RunResult


def command_of_run(result: RunResult) -> str:
    """The command line of the run, ready for a shell."""
    return shlex.join(result.command)


def command_of_pair(result: RunResult, pair: PairResult) -> str | None:
    """The run's command without its other cases and candidates.

    None where that cannot be said with settings: for a sweep, a run that was not started with
    `parity`, and a run that has this pair alone.
    """
    command = result.command
    if command[:1] != ["parity"] or "--multirun" in command:
        return None
    others = [
        *_others("cases", result.config.get("cases"), pair.case),
        *_others("candidates", result.config.get("candidates"), pair.candidate),
    ]
    return shlex.join([*command, *others]) if others else None


def _others(group: str, named: Any, kept: str) -> Iterator[str]:
    """Hydra's deletions of every entry but `kept`."""
    for entry in named or ():
        if entry["name"] != kept:
            yield f"~{group}.{entry['name']}"
