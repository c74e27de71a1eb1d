"""The chain of evidence as the page shows it: each check in words, and drawn beside its band."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from harness.records import Evidence, Outcome, PairResult
from harness.report.cause import COMPONENTS, STAGE_TITLES
from harness.report.noise_band import NoiseBand, draw_band
from harness.report.text import ABSENT, magnitude

_OUTCOMES: dict[Outcome, tuple[str, str]] = {
    "differs": ("✖", "differs"),
    "agrees": ("✓", "agrees"),
    "noted": ("i", "noted"),
    "unscored": ("∅", "unscored, which is never a pass"),
}


_CHECKS = {
    "unconditional": "unconditional embedding",
    "beyond": "other prompts, and state left behind",
    "latents": "final latents",
    "rank": "rank e-value",
    "equivalence": "shift that the seeds rule out",
    "initial": "initial latents",
    "walk": "steps that were made",
    "jump": "a step between the probed ones",
    "shares": "shares of the policies",
    "between": "latents between two steps",
    "solver": "solver steps",
    "transformer": "guided velocity",
    "guidance": "guidance scale",
    "frames": "worst frame",
    "region": "worst region of a frame",
    "bias": "mean colour of a frame",
}
"""What follows the stage, or stage and side, in a check's name, in words for people."""

_EXPLAINED = {
    "exact": "Compared exactly, before anything is computed.",
    "collapse": "Both sides in float32 on the same stored inputs: the same mathematics lies as near as"
    " healthy members do, other mathematics stays apart.",
    "oracle": "At the precision of the run, against the reference in float32.",
    "native": "The links of the real renders, replayed: the loop that was called, not its stages.",
    "order": "Asked again with other work in between: a cache that keeps state shows here.",
    "free": "The videos as they were rendered, beside those of healthy members.",
    "statistics": "Evidence over seeds that stays valid however often one looks.",
}


@dataclass(frozen=True)
class Link:
    """One check of the chain. `comparison` puts the value in proportion to its limit, in words."""

    check: Evidence
    title: str
    stage: str
    component: str
    symbol: str
    outcome: str
    value: str
    limit: str
    healthy: str
    comparison: str
    band: NoiseBand | None


def _counted(count: int, outcome: Outcome) -> str:
    """
    >>> _counted(1, "differs"), _counted(2, "agrees"), _counted(2, "noted")
    ('1 differs', '2 agree', '2 noted')
    """
    several = {"differs": "differ", "agrees": "agree"}
    return f"{count} {outcome if count == 1 else several.get(outcome, outcome)}"


@dataclass(frozen=True)
class Stage:
    """The checks of one stage; `seen` is the worst outcome among them."""

    title: str
    meaning: str
    links: list[Link]

    @property
    def seen(self) -> Outcome:
        """`differs` before `unscored` before `noted` before `agrees`."""
        outcomes = {link.check.outcome for link in self.links}
        return next(o for o in _WORST_FIRST if o in outcomes)

    @property
    def counts(self) -> str:
        """How many checks have which outcome."""
        outcomes = [link.check.outcome for link in self.links]
        return ", ".join(_counted(outcomes.count(o), o) for o in _WORST_FIRST if o in outcomes)

    @property
    def symbol(self) -> str:
        """The symbol of `seen`."""
        return _OUTCOMES[self.seen][0]

    @cached_property
    def shown(self) -> list[Link]:
        """What differs or could not be made; else the check that is nearest to its limit."""
        telling = [link for link in self.links if link.check.outcome in ("differs", "unscored")]
        return telling or [max(self.links, key=_nearness)]

    @property
    def folded(self) -> list[Link]:
        """The other checks: they agree, or only note something."""
        return [link for link in self.links if link not in self.shown]


_WORST_FIRST: tuple[Outcome, ...] = ("differs", "unscored", "noted", "agrees")


def read_chain(pair: PairResult) -> list[Link]:
    """Every check of `pair`, in the order in which it was made."""
    return [_link(check) for check in pair.evidence]


def by_stage(links: Iterable[Link]) -> list[Stage]:
    """The chain in its stages, in the order of the procedure; one that it does not know comes last."""
    stages: dict[str, list[Link]] = {stage: [] for stage in STAGE_TITLES}
    for link in links:
        stages.setdefault(link.check.stage, []).append(link)
    return [
        Stage(STAGE_TITLES.get(stage, stage), _EXPLAINED.get(stage, ""), group)
        for stage, group in stages.items()
        if group
    ]


def _link(check: Evidence) -> Link:
    symbol, outcome = _OUTCOMES[check.outcome]
    return Link(
        check=check,
        title=_title(check),
        stage=STAGE_TITLES.get(check.stage, check.stage),
        component=COMPONENTS[check.component] if check.component else "",
        symbol=symbol,
        outcome=outcome,
        value=_with_unit(check.value, check.unit),
        limit=_with_unit(check.limit, check.unit),
        healthy=_range(check.healthy, check.unit),
        comparison=_comparison(check),
        band=draw_band(
            [check.value],
            check.limit,
            check.healthy,
            higher_is_worse=check.higher_is_worse,
        ),
    )


def _nearness(link: Link) -> float:
    """How near a value is to its limit: 1 at the limit, smaller within; -1 where there is neither."""
    value, limit = link.check.value, link.check.limit
    if value is None or limit is None or not (math.isfinite(value) and math.isfinite(limit)):
        return -1.0
    near, far = (value, limit) if link.check.higher_is_worse else (limit, value)
    return near / far if far > 0 and near >= 0 else 0.0


def _title(check: Evidence) -> str:
    """The check in words; one that is not known here keeps its own name.

    >>> _title(Evidence(stage="native", check="native.candidate.initial", outcome="agrees", detail=""))
    "candidate's own run: initial latents"
    """
    stage, _, rest = check.check.partition(".")
    if stage == "native":
        side, _, link = rest.partition(".")
        return f"{side}'s own run: {_CHECKS.get(link, link)}" if link else check.check
    if check.component is not None and rest == check.component:
        return COMPONENTS[check.component]
    return _CHECKS.get(rest, check.check)


def _with_unit(value: float | None, unit: str) -> str:
    return ABSENT if value is None else f"{magnitude(value)} {unit}".strip()


def _range(healthy: list[float], unit: str) -> str:
    if not healthy:
        return ABSENT
    low, high = magnitude(min(healthy)), magnitude(max(healthy))
    return f"{low} {unit}".strip() if low == high else f"{low} to {high} {unit}".strip()


def _comparison(check: Evidence) -> str:
    """How value and limit lie to each other, worse or better, with their ratio where it has one."""
    value, limit = check.value, check.limit
    if value is None or limit is None:
        return ""
    if math.isnan(value) or math.isnan(limit):
        return "not a number, so it is not within any limit"
    over = value > limit if check.higher_is_worse else value < limit
    where = "worse than the limit" if over else "within the limit"
    if not (math.isfinite(value) and math.isfinite(limit)):
        return where
    if check.unit == "dB":
        return f"{abs(value - limit):.1f} dB {'worse than' if over else 'inside'} the limit"
    if check.higher_is_worse and value > 0 and limit > 0 and math.isfinite(value / limit):
        ratio = value / limit
        return f"{ratio:,.0f} x the limit" if ratio >= 10 else f"{ratio:.2g} x the limit, {where}"
    return where
