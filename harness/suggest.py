"""Did you mean ...? One wording for every name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown `word`: the nearest known name, and all of them.

    >>> suggest("dimm", ["dpm", "ddim"])
    "; did you mean 'ddim'? Known: ddim, dpm"
    """
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    question = f"; did you mean {near[0]!r}?" if near else "."
    return f"{question} Known: {', '.join(names) or 'none'}"
