"""The reference that a candidate is held against: under the approximations and settings it declares.

An option that is meant to change the result (tiling, a cache, a quantisation), or a setting of the case
that a candidate has of its own, is given to the reference, too, and the whole procedure is made on the
two: stages, native runs and frames. What the option does by itself is the distance between the reference
under it and the reference as configured, and is stated apart (`harness.judge.effect`).

Every other option must change nothing, so it is left as it is and judged.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from backends import registry
from backends.base import Case, Variant
from harness.config.config import CandidateSpec, VariantSpec
from harness.records import DECLARED, Evidence, Finding

_LONGEST_LABEL = 60


@dataclass(frozen=True)
class Matched:
    """One candidate's reference.

    `spec` is the reference under the candidate's approximations, `case` the settings of the case that
    both render with, `declared` one finding for each of these, and `unmatched` the candidate's
    approximations that the reference's backend does not have. Where nothing is declared, `spec` is the
    configured reference itself.
    """

    spec: VariantSpec
    case: Mapping[str, Any]
    declared: tuple[Finding, ...]
    unmatched: tuple[str, ...]

    def of(self, case: Case) -> Case:
        """`case` as both sides render it."""
        return replace(case, **self.case)

    def unscored(self) -> list[Evidence]:
        """What the reference could not be given, so that nothing says what a candidate makes of it."""
        return [
            Evidence(
                stage="exact",
                check=f"exact.option.{name}",
                outcome="unscored",
                detail=f"the candidate sets {name}, which changes the result, and the reference cannot"
                " be run with it; set it to nothing, or take a reference of a backend that has it",
            )
            for name in self.unmatched
        ]


def match(reference: VariantSpec, candidate: CandidateSpec) -> Matched:
    """The reference that `candidate` is held against."""
    mine = registry.approximations(reference.backend, reference.options)
    other = registry.approximations(candidate.backend, candidate.options)
    asked = {name: candidate.options.get(name, row.off) for name, row in other.items()}
    changed = {
        name: asked[name]
        for name, row in mine.items()
        if name in asked and asked[name] != reference.options.get(name, row.off)
    }
    unmatched = sorted(
        name for name, row in other.items() if name not in mine and asked[name] != row.off
    )
    declared = [
        *(_option(name, reference, candidate) for name in sorted(changed)),
        *(_setting(name, value) for name, value in candidate.case.items()),
    ]
    if not declared:
        return Matched(reference, {}, (), tuple(unmatched))
    spec = reference.model_copy(
        update={
            "name": f"{reference.name} with {_label({**changed, **candidate.case})}",
            "options": {**reference.options, **changed},
        }
    )
    return Matched(spec, candidate.case, tuple(declared), tuple(unmatched))


def stage_by_stage(variant: Variant) -> Variant:
    """`variant` without what makes a step depend on the steps before it, as its stages are asked."""
    declared = registry.approximations(variant.backend, variant.options)
    off = {name: row.off for name, row in declared.items() if row.across_steps}
    kept = {name: value for name, value in off.items() if variant.options.get(name) != value}
    if not kept:
        return variant
    options = {**variant.options, **kept}
    return replace(variant, options=options, patch_may_idle=True)


def _label(changed: Mapping[str, Any]) -> str:
    """`changed` as part of a variant's name, which becomes a file's; told apart where it is cut."""
    plain = ",".join(f"{name}={value}" for name, value in changed.items())
    safe = re.sub(r"[^A-Za-z0-9_.=,-]", "_", plain)[:_LONGEST_LABEL]
    if safe == plain:
        return plain
    exact = json.dumps(changed, sort_keys=True, default=str).encode()
    return f"{safe}-{hashlib.sha256(exact).hexdigest()[:8]}"


def _option(name: str, reference: VariantSpec, candidate: CandidateSpec) -> Finding:
    mine, other = reference.options.get(name), candidate.options.get(name)
    return Finding(
        kind="approximation",
        name=f"options.{name}",
        detail=f"the candidate sets {name}={other!r}, the reference {mine!r}; the two are compared with"
        " the candidate's",
        reference=mine,
        candidate=other,
        known=f"{DECLARED}{name}",
    )


def _setting(name: str, value: Any) -> Finding:
    return Finding(
        kind="policy",
        name=f"case.{name}",
        detail=f"the candidate renders with {name}={value!r} of its own; the two are compared with it",
        candidate=value,
        known=f"{DECLARED}{name}",
    )
