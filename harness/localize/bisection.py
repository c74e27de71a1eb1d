"""One bisection from configuration to result: culprits, shares, and the nearest good neighbour."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from backends.base import Case, Variant
from harness.config.config import RunConfig, VariantSpec
from harness.localize.hybrids import Hybrids, Side, differing
from harness.localize.search import culprits, shapley
from harness.probe.prober import Prober, Target
from harness.records import Record
from harness.store.store import Store
from harness.workers.client import RemoteError
from harness.workers.connect import Connector, in_own_process

MOST_SHARED = 6
"""Exact shares need 2^n runs."""


class BisectedSetting(Record):
    """One differing setting: whether it carries the gap, and its Shapley share of it.

    `share` is None where no shares were worked out; a setting that carries nothing has exactly 0.
    """

    key: str
    reference: Any
    candidate: Any
    carries: bool
    share: float | None


class Bisection(Record):
    """The result. `gap` is the relative squared distance of the final latents, reference to candidate;
    `neighbour_agrees` whether the candidate with the culprits taken back agrees with the reference;
    `probes` the mixtures of settings that were asked, `guided_calls` what all cost."""

    case: str
    reference: str
    candidate: str
    rows: list[BisectedSetting]
    culprits: list[str]
    gap: float
    neighbour_agrees: bool
    probes: int
    guided_calls: int
    sentence: str


def bisect(
    config: RunConfig, plugins: Sequence[str], connect: Connector = in_own_process
) -> Bisection:
    """Bisect the one candidate of `config` for its one case. Raises `ParityError`, `RemoteError`."""
    candidate = config.candidates[0]
    mine = _side(config.cases[0], config.reference)
    other = _side(replace(config.cases[0], **candidate.case), candidate)
    keys = differing(mine, other)
    before = mine.settings()
    logs = config.results / "bisect" / "logs"
    with Prober(Store(config.store), connect, plugins, config.timeout_s, logs) as prober:
        hybrids = Hybrids(prober, mine, keys, config.seeds[0])
        found = culprits(list(keys), hybrids.differs)
        agrees = not hybrids.differs(frozenset(keys) - frozenset(found))
        gap = hybrids.distance(frozenset(keys))
        shares: dict[str, float] = {}
        if found and len(found) <= MOST_SHARED:
            with suppress(RemoteError):  # some of them cannot be run without the others
                shares = shapley(found, hybrids.distance)
        calls = prober.fresh_calls
    total = sum(shares.values())
    rows = [
        BisectedSetting(
            key=key,
            reference=before.get(key),
            candidate=value,
            carries=key in found,
            share=(shares[key] / total if total else 0.0) if key in shares else
            (None if found and not shares else 0.0),
        )
        for key, value in keys.items()
    ]  # fmt: skip
    return Bisection(
        case=config.cases[0].name,
        reference=config.reference.name,
        candidate=candidate.name,
        rows=sorted(rows, key=lambda row: -(row.share or 0.0)),
        culprits=found,
        gap=gap,
        neighbour_agrees=agrees,
        probes=hybrids.probes,
        guided_calls=calls,
        sentence=_sentence(rows, found, agrees, hybrids.probes, hybrids.refused),
    )


def _side(case: Case, spec: VariantSpec) -> Side:
    variant = Variant(spec.name, spec.backend, spec.options, spec.patch)
    return Side(case, Target(variant, spec.python, spec.threads))


def _sentence(
    rows: Sequence[BisectedSetting], found: Sequence[str], agrees: bool, probes: int, refused: int
) -> str:
    asked = f"{probes} probes"
    if refused:
        asked += f", of which {refused} cannot be run and count as agreeing"
    if not found:
        return f"None of the {len(rows)} differing settings changes the result ({asked})."
    named = ", ".join(
        f"{row.key} {row.reference!r} -> {row.candidate!r}"
        + (f" ({row.share:.0%})" if row.share is not None else "")
        for row in rows
        if row.carries
    )
    rest = (
        "with these taken back, the rest agrees with the reference"
        if agrees
        else "with these taken back, something still differs: settings act together"
    )
    return f"The gap is carried by {named}; {rest} ({asked})."
