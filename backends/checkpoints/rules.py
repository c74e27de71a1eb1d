"""Rules that tie SAT tensors to Diffusers tensors, and the table that applies them both ways.

A rule says which SAT tensor holds which Diffusers tensors, and in which order their rows lie in it.
One invertible operation is enough for all of CogVideoX: cut the SAT tensor along dimension 0 into
equal chunks and deal them out. A rule without regrouping is the case of one chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backends.checkpoints.tensors import LazyTensors, Loader
from backends.errors import CheckpointError

_SHOWN = 40


@dataclass(frozen=True)
class Layout:
    """Diffusers tensor k is the concatenation of the SAT tensor's chunks `groups[k]`, in order.

    `groups` holds every chunk number exactly once. Both directions only move rows, so no bit
    changes.
    """

    groups: tuple[tuple[int, ...], ...]

    @property
    def chunks(self) -> int:
        """Number of equal chunks along dimension 0 of the SAT tensor."""
        return sum(len(group) for group in self.groups)

    def split(self, whole: Tensor) -> tuple[Tensor, ...]:
        """SAT tensor (chunks * n, ...) to Diffusers tensors (len(group) * n, ...).

        Raises `ValueError` if the rows do not divide into chunks.
        """
        if self.chunks == 1:
            return (whole,)
        parts = _cut(whole, self.chunks)
        return tuple(torch.cat([parts[i] for i in group]) for group in self.groups)

    def join(self, pieces: Sequence[Tensor]) -> Tensor:
        """The inverse of `split`. Raises `ValueError` where the pieces do not fit together."""
        if self.chunks == 1:
            return pieces[0]
        if len({piece.dtype for piece in pieces}) != 1:
            raise ValueError(f"mixed dtypes {sorted({str(piece.dtype) for piece in pieces})}")
        parts: dict[int, Tensor] = {}
        for group, piece in zip(self.groups, pieces, strict=True):
            parts.update(zip(group, _cut(piece, len(group)), strict=True))
        shapes = {tuple(part.shape) for part in parts.values()}
        if len(shapes) != 1:
            raise ValueError(f"chunks of different shapes {sorted(shapes)}")
        return torch.cat([parts[i] for i in range(self.chunks)])


WHOLE = Layout(((0,),))
"""The tensor as it is."""


def _cut(tensor: Tensor, count: int) -> tuple[Tensor, ...]:
    if tensor.ndim == 0 or tensor.shape[0] % count:
        raise ValueError(f"shape {tuple(tensor.shape)} does not divide into {count} chunks of rows")
    return tensor.split(tensor.shape[0] // count) if tensor.shape[0] else (tensor,) * count


@dataclass(frozen=True)
class Rule:
    """SAT tensor `sat` holds the tensors that Diffusers calls `diffusers`, arranged by `layout`."""

    sat: str
    diffusers: tuple[str, ...]
    layout: Layout = WHOLE

    def over(self, **values: Iterable[object]) -> list[Rule]:
        """This rule for every combination of `values`, which fill the `{slots}` of its names."""
        rules: list[Rule] = [self]
        for key, choices in values.items():
            rules = [rule._filled(f"{{{key}}}", str(c)) for c in choices for rule in rules]
        return rules

    def _filled(self, slot: str, value: str) -> Rule:
        return Rule(
            self.sat.replace(slot, value),
            tuple(name.replace(slot, value) for name in self.diffusers),
            self.layout,
        )


@dataclass(frozen=True)
class Table:
    """The rules of one component of one model; every tensor of either side has exactly one rule."""

    component: str
    rules: tuple[Rule, ...]

    def to_diffusers(self, tensors: Mapping[str, Tensor]) -> LazyTensors:
        """SAT tensors under Diffusers' names and layouts, each computed when it is looked up.

        Raises `CheckpointError` listing names that are missing or that no rule knows; on lookup,
        when a tensor does not have the rows that its rule expects.
        """
        self._account(tensors, {rule.sat for rule in self.rules}, "SAT")
        return LazyTensors(
            {
                name: self._splitter(rule, index, tensors)
                for rule in self.rules
                for index, name in enumerate(rule.diffusers)
            }
        )

    def to_sat(self, tensors: Mapping[str, Tensor]) -> LazyTensors:
        """Diffusers tensors under SAT's names and layouts; the inverse of `to_diffusers`."""
        self._account(tensors, {name for r in self.rules for name in r.diffusers}, "Diffusers")
        return LazyTensors({rule.sat: self._joiner(rule, tensors) for rule in self.rules})

    def _splitter(self, rule: Rule, index: int, tensors: Mapping[str, Tensor]) -> Loader:
        def load() -> Tensor:
            try:
                return rule.layout.split(tensors[rule.sat])[index]
            except ValueError as error:
                raise self._misfit(rule.sat, error) from error

        return load

    def _joiner(self, rule: Rule, tensors: Mapping[str, Tensor]) -> Loader:
        def load() -> Tensor:
            try:
                return rule.layout.join([tensors[name] for name in rule.diffusers])
            except ValueError as error:
                raise self._misfit(", ".join(rule.diffusers), error) from error

        return load

    def _misfit(self, names: str, error: ValueError) -> CheckpointError:
        return CheckpointError(
            f"{self.component}: {names}: {error}; the tensor does not fit this model's"
            " configuration, so weights and configuration come from different models"
        )

    def _account(self, tensors: Mapping[str, Tensor], expected: set[str], side: str) -> None:
        unknown = sorted(set(tensors) - expected)
        missing = sorted(expected - set(tensors))
        if not unknown and not missing:
            return
        parts = [
            f"{len(names)} {what}:"
            f" {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
            for names, what in ((unknown, "without a rule"), (missing, "missing"))
            if names
        ]
        raise CheckpointError(
            f"{self.component}: the {side} tensors do not match the {len(expected)} that its"
            f" configuration implies; {'; '.join(parts)}. Use weights and configuration of one"
            " model, and merge or remove adapters first"
        )
