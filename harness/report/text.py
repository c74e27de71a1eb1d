"""Numbers and foreign text as people read them, the same in the terminal, Markdown and HTML."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

from harness.records import DECLARED, Coverage, Finding

ABSENT = "—"
"""Stands where there is nothing to show; never a zero."""

_LISTED = 8

_REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text: str) -> str:
    """Foreign text that cannot move a cursor, break a line or reorder what stands beside it.

    >>> visible("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    return "".join(_escaped(character) for character in text)


def visible_lines(text: str) -> str:
    """The same for text of many lines, such as a traceback, whose lines stay."""
    return "\n".join(visible(line) for line in text.splitlines())


def _escaped(character: str) -> str:
    if character in _REORDERING or unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}:
        return character.encode("unicode_escape").decode()
    return character


def magnitude(value: float | None) -> str:
    """A distance or another positive quantity of any size.

    >>> magnitude(0.0), magnitude(1.234e-6), magnitude(0.0456), magnitude(250.0), magnitude(None)
    ('0', '1.2e-06', '0.046', '250', '—')
    """
    if value is None:
        return ABSENT
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < 1e-3 or abs(value) >= 1e6:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"


def score(value: float, unit: str) -> str:
    """A metric's value: two decimals for dB, four for ratios; a ratio is 0 or 1 only exactly.

    >>> score(38.4567, "dB"), score(0.98765, "1"), score(0.999999, "1"), score(math.inf, "dB")
    ('38.46', '0.9877', '>0.9999', 'inf')
    """
    if not math.isfinite(value) or value in (0, 1):
        return f"{value:g}"
    if unit == "dB":
        return f"{value:.2f}"
    if unit == "1" and abs(value) >= 1e-3:
        return ">0.9999" if 0.99995 <= value < 1 else f"{value:.4f}"
    return magnitude(value)


def counted(count: int, singular: str) -> str:
    """A count with its noun.

    >>> counted(1, "seed"), counted(2, "seed")
    ('1 seed', '2 seeds')
    """
    return f"{count} {singular}" if count == 1 else f"{count} {singular}s"


def warning_sentence(hazard: Finding) -> str:
    """A hazard of the settings: its reason, and the remedy where there is one."""
    remedy = f". Remedy: {hazard.remedy}" if hazard.remedy else ""
    return visible(f"warning: {hazard.detail}{remedy}")


def known_words(known: str) -> str:
    """What makes a difference a known one: a registered row, or that the user set it.

    >>> known_words("zero_snr_subset"), known_words("declared:cache")
    ('known difference zero_snr_subset', 'set by you')
    """
    return "set by you" if known.startswith(DECLARED) else f"known difference {known}"


def finding_sentence(finding: Finding) -> str:
    """Where it was seen, what differs, and whether that is a registered difference."""
    known = f" ({known_words(finding.known)})" if finding.known else ""
    named = "" if finding.detail.startswith(finding.name) else f" {finding.name}"
    return visible(f"{finding.kind}{named}: {finding.detail}{known}")


def coverage_sentence(coverage: Sequence[Coverage]) -> str:
    """How much of what the two sides have was compared, and how much was not; empty if not counted.

    >>> coverage_sentence([Coverage(kind="weights", compared=421, total=422, missing=["x (why)"])])
    'Compared: 421 of 422 weights. Not compared: x (why).'
    """
    if not coverage:
        return ""
    counts = ", ".join(f"{row.compared} of {row.total} {row.kind}" for row in coverage)
    missing = [name for row in coverage for name in row.missing]
    more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
    told = f" Not compared: {'; '.join(missing[:_LISTED])}{more}." if missing else ""
    return visible(f"Compared: {counts}.{told}")
