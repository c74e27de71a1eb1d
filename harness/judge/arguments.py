"""Every argument of every component call, compared by name before the component's output is.

What a module is given is its caller's doing: a wrong table, mask or timestep is named as that argument,
and the module is not blamed for what it makes of it. Between two code bases whose components have other
parameters, what both are known to be given is compared (text, timestep, latents and what is joined to
them); the rest is the component's own there and shows in its output.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.judge.limits import UNIT_ROUNDOFF, relative
from harness.judge.measured import Answers
from harness.records import Component, Coverage, Evidence

CHECK = "exact.arguments."
"""Begins the name of a check of arguments in the stages."""

NATIVE_CHECK = ".arguments."
"""Stands in the name of a check of arguments in a native run."""

TABLE_LIMIT = 1e-5
"""Relative L2 between an argument's values on the two sides. An angle worked out in float32 in another
order is off by a few roundings of 6e-8 times the position, some 1e-6 for a few hundred positions
(reckoned, not measured on a long video); the self-test's faults change a table by 1e-3 and more."""

UNITS = 4.0
"""How many unit roundoffs of the coarser dtype, where that allows more."""

Facts = Mapping[str, Any]
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Given:
    """One argument as a component received it: its fact (`backends.stages.arguments`), and its rows."""

    fact: Facts
    rows: Array | None

    @property
    def absent(self) -> bool:
        """Whether it says no more than leaving it out does."""
        return "value" in self.fact and self.fact["value"] is None


@dataclass(frozen=True)
class Called:
    """One call of a component: its arguments by name, and which hold `text`, `timestep`, `latents`.

    `blocks` are how many of its blocks worked, and how many it has, where that was counted."""

    component: str
    label: str
    arguments: Mapping[str, Given]
    roles: Mapping[str, str]
    blocks: tuple[int, int] | None = None


@dataclass(frozen=True)
class Difference:
    """How one argument differs. `grave`: in its values, so that it matters whatever comes out."""

    name: str
    grave: bool
    told: str
    value: float
    limit: float


def read_calls(calls: Sequence[Facts], tensors: Mapping[int, Array]) -> list[Called]:
    """Recorded calls with their values; `tensors` by the index that facts point to."""
    return [
        Called(
            call["component"],
            call["label"],
            {
                name: Given(fact, tensors[fact["at"]] if "at" in fact else None)
                for name, fact in call["arguments"].items()
            },
            {**_holding_latents(call["arguments"]), **call["roles"]},
            tuple(call["blocks"]) if "blocks" in call else None,
        )
        for call in calls
    ]


def _holding_latents(arguments: Mapping[str, Facts]) -> dict[str, str]:
    held = {n: float(fact["carried"]) for n, fact in arguments.items() if "carried" in fact}
    return {"latents": min(held, key=lambda name: held[name])} if held else {}


def of_question(answers: Answers, question: str) -> list[Called]:
    """The calls that were made to answer `question`."""
    calls = answers.facts.get(question, {}).get("arguments", [])
    named = {f["at"] for call in calls for f in call["arguments"].values() if "at" in f}
    tensors = {at: answers.tensors[f"{question}.argument.{at}"] for at in named}
    return read_calls(calls, tensors)


def difference(name: str, a: Given, b: Given) -> Difference | None:
    """How argument `name` of the candidate (`b`) differs from the reference's (`a`); None where not."""
    if a.rows is None or b.rows is None:
        if a.absent and b.absent:
            return None
        if a.rows is None and b.rows is None and a.fact["value"] == b.fact["value"]:
            return None
        told = f"{_said(b)}, where the reference gives {_said(a)}"
        return Difference(name, False, told, math.inf, 0.0)
    if _squeezed(a) != _squeezed(b):
        return Difference(name, False, f"{_said(b)}, where the reference gives {_said(a)}",
                          math.inf, 0.0)  # fmt: skip
    limit = max(TABLE_LIMIT, UNITS * max(_unit(a), _unit(b)))
    value = _distance(a, b)
    if value > limit:
        return Difference(name, True, _where(a, b), value, limit)
    if a.fact["dtype"] != b.fact["dtype"]:
        told = f"it arrives as {b.fact['dtype']}, the reference's as {a.fact['dtype']}"
        return Difference(name, False, told, value, limit)
    return None


def _squeezed(given: Given) -> list[int]:
    return [size for size in given.fact["shape"] if size != 1]


def _unit(given: Given) -> float:
    return UNIT_ROUNDOFF.get(given.fact["dtype"], 0.0)


def _distance(a: Given, b: Given) -> float:
    if a.fact["digest"] == b.fact["digest"] != "" or a.rows is None or b.rows is None:
        return 0.0
    x, y = a.rows.reshape(-1), b.rows.reshape(-1)
    if x.shape == y.shape and np.array_equal(x, y, equal_nan=True):
        return 0.0
    if a.rows.shape != b.rows.shape:
        return relative(x, y)
    with_zeros = [(p, q) for p, q in zip(a.rows, b.rows, strict=True) if p.any() or q.any()]
    return max((relative(p, q) for p, q in with_zeros), default=0.0)


def _where(a: Given, b: Given) -> str:
    """Which entries differ, where the values are kept whole; else how far they lie apart."""
    if a.rows is None or b.rows is None:
        return ""
    if not (a.fact["whole"] and b.fact["whole"]) or a.rows.size != b.rows.size:
        scale = float(np.vdot(a.rows, b.rows) / max(float(np.vdot(a.rows, a.rows)), 1e-300))
        far = f"relative {_distance(a, b):.2g} from the reference's"
        return f"{far}, on the whole {scale:.3g} times that"
    x, y = a.rows.reshape(-1).astype(np.float64), b.rows.reshape(-1).astype(np.float64)
    apart = ~np.isclose(x, y, rtol=TABLE_LIMIT, atol=TABLE_LIMIT * float(np.abs(x).max()))
    first = int(np.argmax(apart))
    at = np.unravel_index(first, a.fact["shape"] or [1])
    place = ", ".join(str(int(i)) for i in at)
    return (
        f"{int(apart.sum())} of {x.size} values differ, first [{place}]: {y[first]:.6g}, the reference"
        f" gives {x[first]:.6g}"
    )


def _said(given: Given) -> str:
    if "value" in given.fact:
        return "nothing" if given.absent else repr(given.fact["value"])
    return f"{given.fact['dtype']} of shape {tuple(given.fact['shape'])}"


_ABSENT = Given({"value": None}, None)


def compare_calls(a: Called, b: Called, alike: bool) -> Iterator[tuple[str, Difference | None]]:
    """Each argument that can be compared, by the reference's name, and how it differs.

    `alike`: the components are of one code base, so that their arguments correspond by name. Elsewhere
    those of the same name and shape, and those of the same role, are compared.
    """
    names = list(dict.fromkeys([*a.arguments, *(b.arguments if alike else ())]))
    roles = {a.roles[role]: b.roles[role] for role in a.roles if role in b.roles}
    for name in names:
        mine = a.arguments.get(name, _ABSENT)
        other = b.arguments.get(name if alike else roles.get(name, name), _ABSENT)
        both = mine.rows is not None and other.rows is not None
        if not alike and not (both and _squeezed(mine) == _squeezed(other)):
            continue
        yield name, difference(name, mine, other)


class Seen:
    """Gathers comparisons into evidence, one check for each argument that differs.

    `compared` are arguments by component and name; `left` those that nothing looked at, and why.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.compared: set[tuple[str, str]] = set()
        self.left: dict[tuple[str, str], str] = {}
        self._found: dict[tuple[str, str], tuple[Difference, str, bool]] = {}

    def compare(
        self,
        a: Called,
        b: Called,
        alike: bool,
        skip: Container[str] = (),
    ) -> None:
        """Compare one call; arguments in `skip` are held against something else."""
        text = a.roles.get("text")
        for name, found in compare_calls(a, b, alike):
            if name in skip:
                continue
            self.say(a.component, name, found, a.label, text=name == text)

    def say(
        self, component: str, name: str, found: Difference | None, label: str, text: bool = False
    ) -> None:
        """Note that argument `name` was compared, and how it differs; the first, gravest one stays."""
        self.compared.add((component, name))
        known = self._found.get((component, name))
        if found is not None and (known is None or (found.grave and not known[0].grave)):
            self._found[component, name] = found, label, text

    def missing(self, component: str, name: str, why: str) -> None:
        """Note that an argument was looked at by nothing."""
        self.left[component, name] = why

    def evidence(self) -> list[Evidence]:
        """The checks: one for each argument that differs, or one that says that none does."""
        told = [
            self._evidence(component, name, *found)
            for (component, name), found in self._found.items()
        ]
        if self.compared and not any(e.outcome == "differs" for e in told):
            components = {component for component, _ in self.compared}
            agreed = len(self.compared - set(self._found))
            told.append(
                Evidence(
                    stage=self._stage, check=f"{self._prefix}all", outcome="agrees", value=0.0,
                    limit=0.0, unit="arguments",
                    detail=f"what components are given: {agreed} arguments of {len(components)}"
                    " components agree, by name",
                )
            )  # fmt: skip
        return told

    @property
    def _stage(self) -> str:
        return self._prefix.partition(".")[0]

    def _evidence(
        self, component: str, name: str, found: Difference, label: str, text: bool
    ) -> Evidence:
        step = int(label) if label.isdigit() and component == "transformer" else None
        return Evidence(
            stage=self._stage,
            check=f"{self._prefix}{component}.{name}",
            component=caller(component, name, text),
            outcome="differs" if found.grave else "noted",
            detail=f"{component} is given {'another' if found.grave else 'its'} {name}: {found.told}",
            value=found.value,
            limit=found.limit,
            unit="relative L2",
            step=step,
            setting=name,
        )


def coverage(seen: Sequence[Seen]) -> Coverage:
    """How many arguments, by component and name, were compared anywhere, and what was not."""
    compared = {key for each in seen for key in each.compared}
    left = {key: why for each in seen for key, why in each.left.items() if key not in compared}
    return Coverage(
        kind="arguments",
        compared=len(compared),
        total=len(compared) + len(left),
        missing=[f"{component} {name}: {why}" for (component, name), why in left.items()],
    )


def caller(component: str, name: str, text: bool) -> Component:
    """The part of the pipeline that makes an argument of `component`."""
    if component.startswith("text_encoder") or text:
        return "text"
    if component.endswith(".encode") or name.endswith("beside the latents"):
        return "image_encoder"
    return "decoder" if component.endswith(".decode") else "loop"


def judge_arguments(a: Answers, b: Answers, seeds: Sequence[int], alike: bool) -> Seen:
    """Compare what the stages hand over, on the same inputs: of every question that both answered."""
    seen = Seen(CHECK)
    for question in ("own", "text", *(f"s{seed}" for seed in seeds), "decode"):
        mine, other = of_question(a, question), of_question(b, question)
        for component in dict.fromkeys(call.component for call in mine):
            ours = [call for call in mine if call.component == component]
            theirs = [call for call in other if call.component == component]
            for x, y in paired(ours, theirs):
                seen.compare(x, y, alike)
    return seen


_STAGES: Mapping[str, Component] = {
    "text_encoder": "text",
    "transformer": "transformer",
    "vae.encode": "image_encoder",
    "vae.decode": "decoder",
}


def stage_given(check: str) -> Component | None:
    """The stage whose component was given what `check` looked at; None for any other check."""
    _, found, rest = check.partition(NATIVE_CHECK)
    if not found:
        return None
    return next((stage for root, stage in _STAGES.items() if rest.startswith(root)), None)


def acting(arguments: Sequence[Evidence], chain: Sequence[Evidence]) -> list[Evidence]:
    """`arguments` with those raised to `differs` that another output goes with.

    An argument that one side alone gives, or of another form or setting, may mean the same: what the
    component makes of it decides. A dtype alone is noted.
    """
    wrong = {e.component for e in chain if e.outcome == "differs" and e.stage == "collapse"}
    return [
        e.model_copy(update={"outcome": "differs"})
        if e.outcome == "noted" and e.value == math.inf and stage_given(e.check) in wrong
        else e
        for e in arguments
    ]


def only_here(native: Sequence[Evidence], staged: Sequence[Evidence]) -> list[Evidence]:
    """`native` checks, with those raised to `differs` whose other form no stage was asked with."""
    known = {e.check.partition(NATIVE_CHECK)[2] for e in staged}
    return [
        e.model_copy(update={"outcome": "differs"})
        if e.outcome == "noted"
        and e.value == math.inf
        and e.check.partition(NATIVE_CHECK)[2] not in known
        else e
        for e in native
    ]


def paired(ours: Sequence[Called], theirs: Sequence[Called]) -> list[tuple[Called, Called]]:
    """Calls of one component that belong together: of equal label and in equal order within it.

    Where one side makes several calls of what is one batch on the other, both are joined to the
    different rows that they are given.
    """
    found: list[tuple[Called, Called]] = []
    for label in dict.fromkeys(call.label for call in ours):
        x = [call for call in ours if call.label == label]
        y = [call for call in theirs if call.label == label]
        if y and len(x) != len(y):
            x, y = [_joined(x)], [_joined(y)]
        found += zip(x, y, strict=False)
    return found


def _joined(calls: Sequence[Called]) -> Called:
    names = dict.fromkeys(name for call in calls for name in call.arguments)
    arguments = {
        name: _merged([c.arguments[name] for c in calls if name in c.arguments]) for name in names
    }
    return replace(calls[0], arguments=arguments)


def _merged(given: Sequence[Given]) -> Given:
    """The different rows of all of `given`, in their order."""
    first = given[0]
    arrays = [each.rows for each in given if each.rows is not None]
    if len(arrays) < len(given) or len({array.shape[1] for array in arrays}) > 1:
        return first
    every = np.concatenate(arrays)
    _, places = np.unique(every, axis=0, return_index=True)
    rows = every[np.sort(places)]
    fact = {**first.fact, "digest": "", "shape": [len(rows), *first.fact["shape"][1:]]}
    return Given(fact, rows)
