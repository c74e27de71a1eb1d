"""Errors on the harness's side that a user can act on, and the exit codes of the command."""

from __future__ import annotations

import errno
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
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


class UnreadableError(StoreError):
    """Something is there and cannot be read. That says nothing about its content."""


class DiskFullError(StoreError):
    """No space is left for the store. Going on with other renders would only fail again."""

    def __init__(self, what: object) -> None:
        super().__init__(
            f"no space left on the disk that holds {what}; nothing was left half-written. Free"
            " space there, or point `store` at another folder, and run the same command again"
        )


@contextmanager
def explained_writing(what: Path) -> Generator[None]:
    """Turn an `OSError` while `what` is written into a `StoreError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFullError(what) from error
        raise StoreError(
            f"cannot write {what}: {error.strerror}; choose another `store`"
        ) from error


@contextmanager
def explained_reading(what: Path) -> Generator[None]:
    """Turn an `OSError` while `what` is read into an `UnreadableError`. What is absent stays so."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise UnreadableError(
            f"{error.filename or what} cannot be read ({error.strerror}); it was left alone. Check"
            " who may read it and the state of the disk, and repeat"
        ) from error


class WorkerError(ParityError):
    """A worker process could not be started, died, or overran its time limit."""
