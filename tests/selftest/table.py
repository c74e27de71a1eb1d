"""The result of a self-test, in a few lines and as a table to keep."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from tests.selftest.gates import GATES
from tests.selftest.margins import section
from tests.selftest.measure import CAUGHT, Outcome


def summary(outcomes: Sequence[Outcome]) -> str:
    """Sensitivity, false alarms, localisation, cost; and the usual gates on the same renders."""
    faults = [o for o in outcomes if o.faulty]
    healthy = [o for o in outcomes if not o.faulty]
    caught = [o for o in faults if o.verdict in CAUGHT]
    alarms = [o for o in healthy if o.verdict in CAUGHT]
    placed = [o for o in caught if o.named and o.named[0] in o.place]
    lines = [
        f"faults caught: {share(len(caught), len(faults))}",
        f"false alarms: {share(len(alarms), len(healthy))}",
        f"healthy with an acceptable verdict: {share(sum(o.right for o in healthy), len(healthy))}",
        f"right component first: {share(len(placed), len(caught))}",
    ]
    deep = [o for o in caught if o.block is not None]
    right = [o for o in deep if any(_within(b, str(o.block)) for b in o.blocks[:1])]
    if deep:
        lines.append(f"right block first: {share(len(right), len(deep))}")
    keyed = [o for o in caught if o.key is not None]
    if keyed:
        lines.append(f"right config key: {share(sum(o.key_found for o in keyed), len(keyed))}")
    if faults:
        lines.append(f"median cost: {median(o.guided_calls for o in faults):.0f} guided calls")
    if cost := cost_of_locating([(o.guided_calls, o.locating_calls) for o in caught]):
        lines.append(cost)
    return "\n".join([*lines, "", *_gates(faults, healthy)])


def cost_of_locating(costs: Sequence[tuple[int, int]]) -> str | None:
    """What finding the place cost, from (all guided calls, those spent on the place) of each verdict.

    None where nothing was located.

    >>> cost_of_locating([(110, 10), (50, 0)])
    'cost of a localisation: verdict 75 guided calls, with the place 80 (1.07 times), mean of 2'
    """
    if not costs or not any(place for _, place in costs):
        return None
    whole = sum(calls for calls, _ in costs) / len(costs)
    verdict = whole - sum(place for _, place in costs) / len(costs)
    return (
        f"cost of a localisation: verdict {verdict:.0f} guided calls, with the place {whole:.0f}"
        f" ({whole / verdict:.2f} times), mean of {len(costs)}"
    )


def _within(block: str, expected: str) -> bool:
    """Whether a named module is the expected one, or lies in it."""
    return block == expected or block.startswith(f"{expected}.")


def share(part: int, whole: int) -> str:
    """`part` of `whole`, in words and percent."""
    return f"{part} of {whole}" + (f" ({part / whole:.1%})" if whole else "")


def _gates(faults: Sequence[Outcome], healthy: Sequence[Outcome]) -> list[str]:
    lines = ["| gate | faults caught | false alarms |", "|---|---|---|"]
    caught = sum(o.verdict in CAUGHT for o in faults)
    alarms = sum(o.verdict in CAUGHT for o in healthy)
    lines.append(f"| parity | {share(caught, len(faults))} | {share(alarms, len(healthy))} |")
    for gate in GATES:
        sides: list[str] = []
        for rows in (faults, healthy):
            judged = [o for o in rows if gate in o.gates]
            sides.append(share(sum(o.gates[gate] for o in judged), len(judged)))
        lines.append(f"| {gate} | {sides[0]} | {sides[1]} |")
    return lines


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The summary, and a line for every row: verdict, named components, cost, gates that saw it."""
    lines = [summary(outcomes), "", "| row | verdict | named | expected | calls | gates that say"
             " different |", "|---|---|---|---|---|---|"]  # fmt: skip
    for o in outcomes:
        seen = ", ".join(gate for gate, different in o.gates.items() if different) or "none"
        place = ", ".join(o.place) if o.faulty else " or ".join(o.expected)
        mark = "" if o.right else " **wrong**"
        lines.append(
            f"| {o.id} | {o.verdict or o.error}{mark} | {', '.join(o.named)} | {place}"
            f" | {o.guided_calls} | {seen if o.gates else 'no renders'} |"
        )
    lines += section([o.margins for o in outcomes if not o.faulty and o.margins])
    return "\n".join(lines) + "\n"
