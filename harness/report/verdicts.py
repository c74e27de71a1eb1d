"""What each verdict means to a person: one symbol, one word, one sentence, worst first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.records import VerdictName

Tone = Literal["bad", "open", "good"]


@dataclass(frozen=True)
class VerdictWord:
    """How a verdict is shown. The symbol and the word carry it; the colour of `tone` only helps."""

    name: VerdictName
    symbol: str
    tone: Tone
    meaning: str


_WORST_FIRST = (
    VerdictWord(
        "broken", "✖", "bad", "A video is unusable, or the two do not have the same shape."
    ),
    VerdictWord("bug", "✖", "bad", "The two compute different things; rounding cannot explain it."),
    VerdictWord("error", "!", "bad", "A render failed, so nothing was compared. Not a pass."),
    VerdictWord(
        "inconclusive", "?", "open", "The evidence does not decide, or something was not compared."
    ),
    VerdictWord("not_run", "—", "open", "Not carried out, so nothing was compared. Not a pass."),
    VerdictWord(
        "unsupported", "⊘", "open", "The backend cannot do this; nothing was compared. Not a pass."
    ),
    VerdictWord(
        "policy", "§", "good", "Different on purpose: a registered policy of one stack explains it."
    ),
    VerdictWord(
        "approximation",
        "≃",
        "good",
        "An option you set changes the video on purpose; under it the two agree.",
    ),
    VerdictWord(
        "chaotic", "~", "good", "Same mathematics; sampling amplifies rounding within its budget."
    ),
    VerdictWord("rounding", "≈", "good", "Same mathematics; the difference is healthy rounding."),
    VerdictWord(
        "bit_exact", "=", "good", "Equal to the bit: latents, frames, and what else was asked."
    ),
)

VERDICTS: dict[VerdictName, VerdictWord] = {word.name: word for word in _WORST_FIRST}
"""Every verdict, worst first."""

EXIT_MEANINGS = {
    0: "every pair that was compared is equivalent",
    1: "at least one pair is a bug or broken",
    2: "a prerequisite is missing, or a render failed",
    3: "a pair is undecided or could not be compared, or there was none",
}


def severity(name: VerdictName) -> int:
    """Position in the order worst first; 0 is the worst."""
    return list(VERDICTS).index(name)
