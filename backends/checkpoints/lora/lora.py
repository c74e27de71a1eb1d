"""One LoRA of a CogVideoX transformer, read from Diffusers' or SAT's format under canonical names.

A LoRA adds `alpha / rank * B A x` to chosen linear layers. Canonical names are those of Diffusers'
own files, component first: `transformer.transformer_blocks.0.attn1.to_q.lora_A.weight` (rank, in)
and `...lora_B.weight` (out, rank). Neither format has to say `alpha`, and the two then assume
different things: the rank (Diffusers, so the factor is 1) and 1 (SAT, so the factor is 1/rank).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from backends.checkpoints.report import Format, Notice
from backends.checkpoints.tensors import LazyTensors
from backends.errors import CheckpointError

PREFIX = "transformer."
A, B = ".lora_A.weight", ".lora_B.weight"
WEIGHT_NAME = "pytorch_lora_weights.safetensors"

_SHOWN = 4


@dataclass(frozen=True)
class LoraModule:
    """The LoRA of one linear layer. `scaling` multiplies `B A`: alpha / rank, or / sqrt(rank)."""

    rank: int
    alpha: float
    rank_stabilised: bool = False

    @property
    def scaling(self) -> float:
        """The factor before `B A`, without any scale that a user adds."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)


@dataclass(frozen=True)
class Lora:
    """An opened LoRA: `modules` and `tensors` have canonical names, `tensors` are read on lookup.

    `alpha_from` says where the alphas come from. `texts` are the configuration texts of its format.
    `base` are the model's own tensors that a SAT checkpoint holds beside the LoRA, under SAT's
    names without prefix.
    """

    path: Path
    format: Format
    modules: Mapping[str, LoraModule]
    tensors: LazyTensors
    alpha_from: str
    texts: Mapping[str, str]
    iteration: str | None = None
    base: LazyTensors = field(default_factory=lambda: LazyTensors({}))
    notices: tuple[Notice, ...] = ()


def paired(names: Iterable[str], where: str) -> list[str]:
    """The layers whose two matrices are among `names`; `CheckpointError` for one without other."""
    names = set(names)
    modules = sorted({n.removesuffix(A).removesuffix(B) for n in names})
    halves = [m for m in modules if not {m + A, m + B} <= names]
    if halves:
        raise CheckpointError(
            f"{where}: {len(halves)} layers have one of the two LoRA matrices only:"
            f" {listed(halves)}; the file is incomplete, save or fetch it again"
        )
    return modules


def rank_of(tensors: Mapping[str, object], module: str, where: str) -> int:
    """The rank that the shapes of `module`'s matrices say."""
    a, b = (tuple(getattr(tensors[module + end], "shape", ())) for end in (A, B))
    if len(a) != 2 or len(b) != 2 or a[0] != b[1] or a[0] == 0:
        raise CheckpointError(
            f"{where}: {module} has lora_A {a} and lora_B {b}; expected (rank, in) and (out, rank)"
        )
    return a[0]


def listed(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    every = sorted(names)
    more = f", and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more
