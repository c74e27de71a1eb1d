"""Where the verbs print: the terminal at its width, a pipe or a log at a width of its own."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 110
"""Columns where nothing says how many there are; rich would take 80 and break the matrix."""


def console() -> Console:
    """A console on standard output."""
    from rich.console import Console

    unknown = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=PIPE_WIDTH if unknown else None)
