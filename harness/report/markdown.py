"""The report as Markdown that GitHub's job summaries take: below 1 MiB, foreign text escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from itertools import chain

from harness.report.evidence import Link, read_chain
from harness.report.matrix import Cell, Matrix, Row, build_matrix
from harness.report.reading import RunFiles
from harness.report.scores import metric_title
from harness.report.text import (
    ABSENT,
    counted,
    coverage_sentence,
    finding_sentence,
    visible,
    warning_sentence,
)
from harness.report.verdicts import VERDICTS

# A job summary may hold 1 MiB; the rest is left to what other steps write.
_TABLE_BYTES = 300_000
_SECTION_BYTES = 500_000


def render_markdown(files: RunFiles) -> str:
    """`report.md`: the matrix and each pair's reasons and findings, worst pair first.

    What would not fit is left out from the end, and the text says how many pairs that were.
    """
    matrix = build_matrix(files.result, files.costs)
    lines = chain(
        [f"# parity: {escaped(files.result.run)}", "", escaped(matrix.headline), ""],
        _table(matrix) if matrix.rows else [],
        (f"- {escaped(warning_sentence(hazard))}" for hazard in files.result.hazards),
        (f"- {escaped(sentence)}" for sentence in matrix.unscored),
        [
            "",
            "Numbers are those of the worst seed; *floor* is the reference against its own rerun.",
            *(escaped(sentence) for sentence in matrix.weights),
        ],
        ["", *_sections(matrix)],
        ["## Verdicts", ""],
        (f"- {word.symbol} **{escaped(word.name)}**: {word.meaning}" for word in VERDICTS.values()),
    )
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Foreign text as inline Markdown that shows exactly that text.

    >>> escaped("a|b <i>`c`")
    'a\\\\|b &lt;i&gt;\\\\`c\\\\`'
    """
    return re.sub(r"([\\`*_{}\[\]()#+!|~-])", r"\\\1", html.escape(visible(text), quote=False))


def _table(matrix: Matrix) -> Iterator[str]:
    titles = ["verdict", "case, model", "candidate vs reference", "latents rel. L2"]
    titles += [metric_title(name) for name in matrix.metrics]
    titles += ["first step", "findings", "time x ref.", "peak x ref."]
    yield f"| {' | '.join(titles)} |"
    yield f"|{'---|' * 3}{'---:|' * (len(titles) - 3)}"
    yield from _within(_TABLE_BYTES, (_row(row, matrix) + "\n" for row in matrix.rows))


def _row(row: Row, matrix: Matrix) -> str:
    pair = row.pair
    cells = [
        f"{row.verdict.symbol} **{escaped(row.verdict.name)}**",
        f"{escaped(pair.case)}, {escaped(pair.model)}",
        f"{escaped(pair.candidate)} vs {escaped(pair.reference)}",
        _cell(row.latents),
        *(_cell(row.metric(name)) for name in matrix.metrics),
        row.first_step,
        str(len(pair.findings)),
        row.time,
        row.peak,
    ]
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    value = escaped(cell.value)
    return value if cell.floor == ABSENT else f"{value} (floor {escaped(cell.floor)})"


def _sections(matrix: Matrix) -> Iterator[str]:
    return _within(_SECTION_BYTES, (_section(row) for row in matrix.rows))


def _section(row: Row) -> str:
    lines = [f"## {row.verdict.symbol} {escaped(row.verdict.name)}: {escaped(row.name)}", ""]
    pair = row.pair
    lines += [escaped(pair.summary or row.verdict.meaning)]
    lines += [] if pair.summary else [escaped(reason) for reason in pair.reasons]
    lines += ["", escaped(coverage_sentence(pair.coverage))] if pair.coverage else []
    lines += ["", *(f"- {escaped(finding_sentence(f))}" for f in pair.findings)]
    lines += [f"  - what to do: {escaped(f.remedy)}" for f in pair.findings if f.remedy]
    lines += [
        f"- {link.symbol} {escaped(link.check.check)} ({escaped(link.stage)}): "
        f"{escaped(link.check.detail)}{_measured(link)}"
        for link in read_chain(pair)
        if link.check.outcome in ("differs", "unscored")
    ]
    return "\n".join(lines).rstrip() + "\n\n"


def _measured(link: Link) -> str:
    if link.check.value is None:
        return ""
    return escaped(f" Measured {link.value}, limit {link.limit}, healthy {link.healthy}.")


def _within(budget: int, blocks: Iterable[str]) -> Iterator[str]:
    """Blocks without their last newline while they fit; then how many did not."""
    left_out = 0
    for block in blocks:
        budget -= len(block.encode())
        if budget < 0:
            left_out += 1
        else:
            yield block[:-1]
    if left_out:
        yield ""
        yield f"**{counted(left_out, 'pair')} left out here for size; index.html shows all.**"
        yield ""
