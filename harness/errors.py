"""Errors on the harness's side that a user can act on, and the exit codes of the command."""

from __future__ import annotations

from typing import ClassVar

EXIT_EQUIVALENT = 0
EXIT_DIFFERENT = 1
EXIT_USAGE = 2
EXIT_UNDECIDED = 3


class ParityError(Exception):
    """A message for the user: what came, what was expected, where, and what to do next."""

    exit_code: ClassVar[int] = EXIT_USAGE


class ConfigError(ParityError):
    """The configuration is not one that can be run."""


class StoreError(ParityError):
    """The run store cannot be read or written."""


class WorkerError(ParityError):
    """A worker process could not be started, died, or overran its time limit."""
