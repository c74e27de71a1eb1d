"""What a LoRA should have done to a weight, and what was done: hypotheses tested by reproduction.

Rounding hides small changes, so a factor fitted to the difference misleads. Instead every suspected
mistake is carried out on the base weight, in its dtype, and the one that reproduces the fused weight
in the most places is what happened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from backends.checkpoints import Lora

_CONVINCING = 0.5
_AHEAD = 0.02
_SAME = 1e-3


@dataclass(frozen=True)
class Outcome:
    """The hypothesis that reproduces a weight best: `kind` is `intended`, `not_applied`, `scaled`,
    `transposed` or `other`; `factor` multiplies the intended delta; `share` of values reproduced."""

    kind: str
    factor: float
    share: float


def delta(lora: Lora, layer: str) -> Tensor:
    """alpha / rank * up @ down (out, in), float32, of the layer of canonical name `layer`."""
    return lora.modules[layer].scaling * (lora.up(layer).float() @ lora.down(layer).float())


def what_was_fused(
    base: Tensor, fused: Tensor, wanted: Tensor, factors: Iterable[float]
) -> Outcome:
    """Which of the suspected `factors` of the `wanted` delta, or its transpose, made `fused` from
    `base`."""
    outcomes = sorted(
        (_tried(base, fused, *hypothesis) for hypothesis in _hypotheses(wanted, factors)),
        key=lambda outcome: -outcome.share,
    )
    best = outcomes[0]
    intended = next(outcome for outcome in outcomes if outcome.kind == "intended")
    if intended.share >= best.share - _AHEAD and intended.share >= _CONVINCING:
        return intended
    if best.share >= _CONVINCING:
        return best
    return _fitted(base, fused, wanted, best.share)


def _hypotheses(wanted: Tensor, factors: Iterable[float]) -> Iterator[tuple[str, float, Tensor]]:
    yield "intended", 1.0, wanted
    yield "not_applied", 0.0, wanted
    if wanted.shape[0] == wanted.shape[1]:
        yield "transposed", 1.0, wanted.t()
    for factor in factors:
        if abs(factor - 1) > _SAME and factor:
            yield "scaled", factor, wanted


def _tried(base: Tensor, fused: Tensor, kind: str, factor: float, wanted: Tensor) -> Outcome:
    made = (base.float() + factor * wanted).to(fused.dtype)
    # The last bit depends on the order of a product's sums.
    near = torch.finfo(fused.dtype).eps * fused.float().abs()
    changed = wanted != 0
    same = ((made.float() - fused.float()).abs() <= near) & changed
    exact = float(same.sum()) / max(1, int(changed.sum()))
    return Outcome(kind, factor, exact)


def _fitted(base: Tensor, fused: Tensor, wanted: Tensor, share: float) -> Outcome:
    """No suspicion fits; a common factor still may."""
    actual = fused.float() - base.float()
    size = float(wanted.square().sum())
    factor = float((actual * wanted).sum()) / size if size else 0.0
    rest = float((actual - factor * wanted).norm())
    whole = float(actual.norm())
    if whole and rest < 0.1 * whole:
        return Outcome("scaled", factor, share)
    return Outcome("other", factor, share)
