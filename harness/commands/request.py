"""What one command line asks for, and the job that carries it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.config.config import RunConfig
    from harness.records import Finding
    from harness.render.board import Board
    from harness.render.runner import SweepShare


@dataclass(frozen=True)
class Request:
    """The settings of one command line. `command` is the line itself, for the record.

    `sweep` is there when this is one job of several.
    """

    overrides: tuple[str, ...]
    plugins: tuple[str, ...]
    command: tuple[str, ...]
    sweep: SweepShare | None = None


Job = Callable[["RunConfig", Request], int]
"""Carries out one configuration and returns its exit code."""


def board(request: Request) -> Board | None:
    """Where the sweep's progress is written down, if this is one of its jobs."""
    return None if request.sweep is None else request.sweep.board


def warning(hazard: Finding) -> str:
    """One line for a person: the reason, and the remedy where there is one."""
    from harness.report.text import warning_sentence

    return f"parity: {warning_sentence(hazard)}"
