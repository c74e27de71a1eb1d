"""Weights as they are at the moment of use, in a variant that moves them about while it runs.

What lies in memory between calls proves nothing: offloading brings weights in and sends them away. So
every module's own forward hashes what it is about to use, in a pipeline that was opened for this.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from backends.base import Case
from backends.stages.questions import Question
from harness.audit.places import record_component
from harness.judge.blocks import Place
from harness.probe.prober import Prober, Shared, Target
from harness.records import Component, Evidence
from harness.render.plan import probe_steps

_CROP = 2
_SHOWN = 3


@dataclass(frozen=True)
class InUse:
    """One check for each component with a fault, or one that agrees; and the module of each fault."""

    evidence: list[Evidence]
    places: Mapping[Component, Place] = field(default_factory=dict[Component, Place])


def moves_weights(target: Target) -> bool:
    """Whether a variant keeps its weights off the device between uses."""
    return str(target.variant.options.get("placement", "full")) != "full"


def weights_in_use(prober: Prober, case: Case, candidate: Target, seed: int) -> InUse:
    """Hash every weight that a short run of `candidate` uses. Raises as `Prober` does."""
    question = Question(
        "in_use", "in_use", seed=seed, steps=tuple(probe_steps(case.solver_steps)), crop=_CROP
    )
    prober.reopen()  # the first call of a pipeline may be the one that starts too early
    found = prober.ask(candidate, case, Shared(), [question], {}).facts["in_use"]
    faults = defaultdict[Component, list[dict[str, Any]]](list)
    for fault in found["faults"]:
        faults[record_component(fault["tensor"]) or "loop"].append(fault)
    if not faults:
        return InUse([_check(None, _agreement(found), 0)])
    return InUse(
        [_check(part, _detail(told), len(told)) for part, told in faults.items()],
        {part: _place(told) for part, told in faults.items()},
    )


def _check(component: Component | None, detail: str, count: int) -> Evidence:
    return Evidence(
        stage="exact",
        check="exact.weights_in_use",
        component=component,
        outcome="differs" if count else "agrees",
        detail=detail,
        value=float(count),
        limit=0.0,
        unit="tensors",
    )


def _agreement(found: Mapping[str, Any]) -> str:
    detail = (
        f"{len(found['checked'])} weights hashed inside the modules that use them, in"
        f" {found['uses']} calls: each is as it was loaded"
    )
    # Text-to-video never encodes a picture.
    unused = [name for name in found["unused"] if not name.startswith("vae.encoder.")]
    return detail + (f"; {len(unused)} were not seen in use" if unused else "")


def _detail(faults: Sequence[Mapping[str, Any]]) -> str:
    """The module, how many of its tensors, and what the first of them are."""
    shown = "; ".join(str(fault["detail"]) for fault in faults[:_SHOWN])
    more = f"; and {len(faults) - _SHOWN} tensors more" if len(faults) > _SHOWN else ""
    return f"weights of {_module(faults)} are not those that were loaded when used: {shown}{more}"


def _place(faults: Sequence[Mapping[str, Any]]) -> Place:
    return Place(_module(faults), f"the module is {_module(faults)}", [])


def _module(faults: Sequence[Mapping[str, Any]]) -> str:
    """The innermost module that holds every faulty tensor."""
    paths = [str(fault["tensor"]).split(".")[:-1] for fault in faults]
    levels = takewhile(lambda level: len(set(level)) == 1, zip(*paths, strict=False))
    return ".".join(level[0] for level in levels)
