"""What verbs have in common: where they print, and the store that they are told to look at.

A terminal is printed to at its width, a pipe or a log at a width of its own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import StoreError

if TYPE_CHECKING:
    import argparse

    from rich.console import Console

    from harness.store.store import Store

PIPE_WIDTH = 110
"""Columns where nothing says how many there are; rich would take 80 and break the matrix."""


def console() -> Console:
    """A console on standard output."""
    from rich.console import Console

    unknown = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=PIPE_WIDTH if unknown else None)


def add_store(parser: argparse.ArgumentParser) -> None:
    """The option that says where the store is."""
    parser.add_argument(
        "--store", type=Path, default=Path("results/store"), help="default: %(default)s"
    )


def opened(root: Path) -> Store:
    """The store at `root`. Raises: StoreError, when there is none."""
    from harness.store.store import Store

    if not root.is_dir():
        raise StoreError(
            f"there is no store {root}; render something first, or say where it is with --store"
        )
    return Store(root)
