"""Errors that a user can act on. Each is shown as one message, without a traceback.

A message says what came, what was expected, where, and what to do next. `outcome` is the word under
which a render that ended this way is recorded; neither `unsupported` nor `error` is ever a pass.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
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


def nearest(word: str, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The known word that `word` may mean; None if no likeness, from 0 to 1, reaches `cutoff`."""
    names = list(known)
    if (meant := _MEANT.get(word.lower())) in names:
        return meant
    return next(iter(difflib.get_close_matches(word, names, n=1, cutoff=cutoff)), None)


def hint(word: str, known: Iterable[str]) -> str:
    """ " (did you mean 'x'?)", or nothing where no known word is near."""
    near = nearest(word, known)
    return f" (did you mean {near!r}?)" if near else ""


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown `word`: the nearest known name, and all of them.

    >>> suggest("dimm", ["dpm", "ddim"])
    "; did you mean 'ddim'? Known: ddim, dpm"
    """
    names = sorted(known)
    near = nearest(word, names)
    return f"{f'; did you mean {near!r}?' if near else '.'} Known: {', '.join(names) or 'none'}"
