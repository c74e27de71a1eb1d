"""The reference with some settings of the candidate's: what a bisection asks about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from backends.base import Case
from backends.stages.questions import Question
from harness.errors import ConfigError
from harness.judge.limits import limit, relative
from harness.judge.measured import OTHER_MEMBERS, Answers, Array
from harness.probe.prober import Prober, Shared, Target
from harness.render.plan import probe_steps
from harness.workers.client import RemoteError

_REFUSALS = frozenset({"InvalidRequest", "Unsupported"})


@dataclass(frozen=True)
class Side:
    """One side of a bisection: its case and how it is opened."""

    case: Case
    target: Target

    def settings(self) -> dict[str, Any]:
        """Every setting by name: the case's, the options', the patch."""
        case = {f"case.{k}": v for k, v in asdict(self.case).items() if k != "name"}
        variant = self.target.variant
        options = {f"options.{k}": v for k, v in variant.options.items()}
        rest = {"backend": variant.backend, "patch": variant.patch, "threads": self.target.threads}
        return {**case, **options, **rest}

    def having(self, settings: Mapping[str, Any]) -> Side:
        """This side with other `settings`."""
        case = {k.removeprefix("case."): v for k, v in settings.items() if k.startswith("case.")}
        options = {
            k.removeprefix("options."): v for k, v in settings.items() if k.startswith("options.")
        }
        variant = self.target.variant
        changed = replace(
            variant,
            options=variant.options | options,
            backend=settings.get("backend", variant.backend),
            patch=settings.get("patch", variant.patch),
        )
        threads = settings.get("threads", self.target.threads)
        target = replace(self.target, variant=changed, threads=threads)
        return Side(replace(self.case, **case), target)


def differing(reference: Side, candidate: Side) -> dict[str, Any]:
    """The settings that differ, with the candidate's values. Raises `ConfigError` if none does, or if
    the two are different stacks, whose settings cannot be mixed."""
    mine, other = reference.settings(), candidate.settings()
    stacks = {name.partition("_")[0] for name in (mine["backend"], other["backend"])}
    if len(stacks) > 1:
        raise ConfigError(
            f"bisect mixes the settings of two variants of one stack, and these are {mine['backend']}"
            f" and {other['backend']}; use `parity run`, which compares them component by component"
        )
    keys = {key: other[key] for key in other if key not in mine or mine[key] != other[key]}
    if not keys:
        raise ConfigError("the two sides have equal settings; there is nothing to bisect")
    return keys


class Hybrids:
    """Answers for mixtures of two sides. Teacher-forced answers say *whether* one differs (three
    guided calls); runs of the whole schedule say *how far*. `probes` counts the mixtures asked,
    `refused` those of them that the backend cannot run."""

    def __init__(self, prober: Prober, reference: Side, keys: Mapping[str, Any], seed: int) -> None:
        self._prober, self._reference, self._keys, self._seed = prober, reference, keys, seed
        steps = probe_steps(reference.case.solver_steps)
        self._steps = tuple(sorted({steps[0], steps[len(steps) // 2], steps[-1]}))
        start = Question("t", "trajectory", seed=seed, steps=self._steps)
        mine = self._ask(frozenset(), [start], {})
        names = [f"t.{k}.{part}" for k in self._steps for part in ("in", "velocity")]
        self._given = {name: mine.tensors[name] for name in (*names, "t.clean")}
        self._plain = self._ask(frozenset(), self._questions("plain"), self._given)
        self._limits = self._healthy()
        self.probes = self.refused = 0

    def differs(self, chosen: frozenset[str]) -> bool:
        """Whether any teacher-forced answer leaves the healthy band.

        A mixture that cannot be run (a LoRA's scale without the LoRA) says nothing, and counts as one
        that agrees: then settings that need each other are found together. All settings together must
        run; if not, raises `RemoteError`.
        """
        self.probes += 1
        try:
            found = self._ask(chosen, self._questions("plain"), self._given)
        except RemoteError as error:
            if error.kind not in _REFUSALS or chosen == frozenset(self._keys):
                raise
            self.refused += 1
            return False
        if found.facts["own"]["schedule"] != self._plain.facts["own"]["schedule"]:
            return True
        scales = (answers.facts["p"]["scales"] for answers in (self._plain, found))
        if len({str(s) for s in scales}) > 1:
            return True
        return any(
            relative(self._plain.tensors[name], found.tensors[name]) > bound
            for name, bound in self._limits.items()
        )

    def distance(self, chosen: frozenset[str]) -> float:
        """|x - x_A|^2 / |x_A|^2 of the final latents of whole runs."""
        run = [Question("run", "run", seed=self._seed)]
        a = self._ask(frozenset(), run, {}).tensors["run.final"].astype(np.float64)
        b = self._ask(chosen, run, {}).tensors["run.final"]
        return float(((b - a) ** 2).sum() / (a**2).sum())

    def _ask(
        self, chosen: frozenset[str], questions: list[Question], given: Mapping[str, Array]
    ) -> Answers:
        side = self._reference.having({key: self._keys[key] for key in chosen})
        return self._prober.ask(side.target, side.case, Shared(), questions, given)

    def _questions(self, member: str) -> list[Question]:
        return [
            Question("own", "own", member=member, seed=self._seed),
            Question("p", "predict", member, self._seed, self._steps, "t"),
            Question("s", "solve", member, self._seed, self._steps, "t"),
            Question("d", "decode", member, sources=("t.clean",)),
        ]

    def _healthy(self) -> dict[str, float]:
        plain = self._plain.tensors
        members = [
            self._ask(frozenset(), self._questions(member), self._given).tensors
            for member in OTHER_MEMBERS
        ]
        return {
            name: limit([relative(tensor, found[name]) for found in members], floor=1e-6).value
            for name, tensor in plain.items()
            if all(
                name in found for found in members
            )  # what calls were given is the plain one's alone
        }
