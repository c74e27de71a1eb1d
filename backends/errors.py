"""Errors that a user can act on. Each is shown as one message, without a traceback.

A message says what came, what was expected, where, and what to do next. `outcome` is the word under
which a render that ended this way is recorded; neither `unsupported` nor `error` is ever a pass.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import ClassVar

_MEANT = {"gpu": "cuda", "nvidia": "cuda", "cuda:0": "cuda"}
"""Words that look like one known word and mean another: `gpu` is no misspelt `cpu`."""


class BackendError(Exception):
    """Base of every error that a backend raises on purpose."""

    outcome: ClassVar[str] = "error"


class InvalidRequest(BackendError):
    """The case or an option cannot be carried out as asked: a frame count, a size, a value."""


class Unsupported(BackendError):
    """The installed stack or this machine cannot do what was asked; another one may."""

    outcome: ClassVar[str] = "unsupported"


class MissingPrerequisite(BackendError):
    """Something that can be installed or fetched is not there; the message says the command."""


class CheckpointError(BackendError):
    """A checkpoint is missing, damaged, incomplete, or holds code instead of tensors."""


class TapeError(BackendError):
    """A stack drew noise that the tape did not expect, in another shape, or not at all."""


def hint(came: str, known: Sequence[str]) -> str:
    """(did you mean 'x'?), or nothing where no known word is near."""
    meant = _MEANT.get(came.lower())
    near = [meant] if meant in known else difflib.get_close_matches(came, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
