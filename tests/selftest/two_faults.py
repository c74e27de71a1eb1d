"""Two faults at once, through the whole procedure: both are to be named."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from harness.errors import ParityError
from harness.records import Component, Record, Share, VerdictName
from tests.selftest.measure import CAUGHT, judged, named
from tests.selftest.rows_pairs import Pair
from tests.selftest.table import cost_of_locating, share

ABSENT = "-"

_TITLE = f"""\
# Two faults at once

Written by `python -m tests.selftest --pairs`. Shares are exact Shapley shares of the squared gap, with
95 % intervals over seeds; {ABSENT} where the gap was not divided (`judge.shares` was off, or a
fault lies where no stage goes through: the loop, the frames)."""

_HEAD = """\
| pair | model | verdict | planted in | named | share of the gap | calls | of these for the place |
|---|---|---|---|---|---|---|---|"""


class TwoFaults(Record):
    """What the procedure made of one pair of faults.

    `places` are the components that are right for each fault, `named` those of the findings in their
    order. Of the `guided_calls`, `locating_calls` went into
    finding the places and dividing the gap.
    """

    id: str
    model: str
    places: tuple[list[Component], list[Component]]
    verdict: VerdictName | None = None
    named: tuple[Component, ...] = ()
    blocks: tuple[str, ...] = ()
    shares: tuple[Share, ...] = ()
    detail: str = ""
    guided_calls: int = 0
    locating_calls: int = 0
    seconds: float = 0.0
    error: str | None = None

    @property
    def found(self) -> tuple[bool, bool]:
        """Whether each fault's component is named."""
        first, second = (any(c in self.named for c in place) for place in self.places)
        return first, second


def known(path: Path) -> dict[str, TwoFaults]:
    """The outcomes that a file holds, by pair."""
    if not path.is_file():
        return {}
    found = [TwoFaults.model_validate_json(line) for line in path.read_text().splitlines() if line]
    return {outcome.id: outcome for outcome in found}


def measure_pairs(rows: Iterable[Pair], path: Path, work: Path) -> Iterator[TwoFaults]:
    """Run every pair that `path` lacks; yield and append its outcome. `work` holds store and runs."""
    done = known(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for row in rows:
        if row.id in done:
            yield done[row.id]
            continue
        outcome = _run(row, work)
        with path.open("a") as stream:
            stream.write(outcome.model_dump_json() + "\n")
        yield outcome


def _run(row: Pair, work: Path) -> TwoFaults:
    started = time.perf_counter()
    first, second = row.first, row.second
    places: tuple[list[Component], list[Component]] = (
        [first.component, *first.also],
        [second.component, *second.also],
    )
    blank = TwoFaults(id=row.id, model=row.setting.model, places=places)
    again = first.second_render is not None or second.second_render is not None
    try:
        _, pair = judged((*(("seeds=[0,1]",) if again else ()), *row.overrides), row.plugin, work)
    except ParityError as error:
        return blank.model_copy(update={"error": str(error)})
    return blank.model_copy(
        update={
            "verdict": pair.verdict,
            "named": tuple(named(pair)),
            "blocks": tuple(f.block for f in pair.findings if f.kind == "component" and f.block),
            "shares": tuple(pair.shares),
            "detail": pair.summary,
            "guided_calls": pair.cost_guided_calls,
            "locating_calls": pair.cost_locating_calls,
            "seconds": time.perf_counter() - started,
        }
    )


def summary(outcomes: Sequence[TwoFaults]) -> str:
    """How often both were named, and what finding that out cost beside the verdict."""
    judged_ones = [o for o in outcomes if o.error is None]
    both, one = (sum(sum(o.found) == n for o in judged_ones) for n in (2, 1))
    lines = [
        f"pairs called a bug: {share(sum(o.verdict in CAUGHT for o in outcomes), len(outcomes))}",
        f"both faults named: {share(both, len(outcomes))}",
        f"one of the two named: {share(one, len(outcomes))}",
    ]
    if cost := cost_of_locating([(o.guided_calls, o.locating_calls) for o in judged_ones]):
        lines.append(cost)
    return "\n".join(lines)


def markdown(outcomes: Sequence[TwoFaults]) -> str:
    """The summary, and a line for every pair."""
    lines = [_TITLE, "", summary(outcomes), "", _HEAD]
    for o in outcomes:
        planted = " + ".join(" or ".join(place) for place in o.places)
        mark = "" if all(o.found) else " **not both**"
        shares = ", ".join(
            f"{s.component} {s.share:.1%} ({s.low:.1%} to {s.high:.1%})" for s in o.shares
        )
        lines.append(
            f"| {o.id} | {o.model} | {o.verdict or o.error} | {planted} | {', '.join(o.named)}{mark}"
            f" | {shares or ABSENT} | {o.guided_calls} | {o.locating_calls} |"
        )
    return "\n".join(lines) + "\n"
