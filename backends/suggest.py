"""What a user may have meant by a word that is not among those known."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

_MEANT = {"gpu": "cuda", "nvidia": "cuda", "cuda:0": "cuda"}
"""Words that look like one known word and mean another: `gpu` is no misspelt `cpu`."""


def hint(came: str, known: Sequence[str]) -> str:
    """(did you mean 'x'?), or nothing where no known word is near."""
    meant = _MEANT.get(came.lower())
    near = [meant] if meant in known else difflib.get_close_matches(came, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
