"""One LoRA of a CogVideoX transformer under canonical names, whatever format it was read from.

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

from torch import Tensor

from backends.checkpoints.report import Format
from backends.checkpoints.tensors import LazyTensors
from backends.errors import BackendError

PREFIX = "transformer."
A, B = ".lora_A.weight", ".lora_B.weight"
WEIGHT_NAME = "pytorch_lora_weights.safetensors"
HEADER = "lora_adapter_metadata"
"""What Diffusers calls PEFT's configuration in a safetensors header."""

_SHOWN = 4


@dataclass(frozen=True)
class LoraModule:
    """The LoRA of one linear layer. `stated` is False for an alpha that is its format's default."""

    rank: int
    alpha: float
    rank_stabilised: bool = False
    stated: bool = field(default=True, compare=False)

    @property
    def scaling(self) -> float:
        """The factor before `B A`, alpha / rank or / sqrt(rank), without any that a user adds."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)


@dataclass(frozen=True)
class Lora:
    """An opened LoRA: `modules` and `tensors` have canonical names, `tensors` are read on lookup.

    `alpha_from` says where the alphas come from. `texts` are the configuration texts of its format.
    `beside` counts the model's own tensors in the same file. `strange` are keys of no layer,
    `foreign` those and all that the format itself would spell otherwise; `faults` is what contradicts
    itself in the rest of the file. An audit reports them, and `open_lora` refuses them.
    """

    path: Path
    format: Format
    modules: Mapping[str, LoraModule]
    tensors: LazyTensors
    alpha_from: str
    texts: Mapping[str, str]
    iteration: str | None = None
    beside: int = 0
    strange: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    faults: tuple[BackendError, ...] = ()

    def down(self, layer: str) -> Tensor:
        """The matrix A (rank, in) of the layer of canonical name `layer`."""
        return self.tensors[layer + A]

    def up(self, layer: str) -> Tensor:
        """The matrix B (out, rank) of the layer of canonical name `layer`."""
        return self.tensors[layer + B]

    def misfits(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[list[str], list[str]]:
        """The layers that are not in a model whose weights have `shapes` by canonical name, and those
        that have another size there, with both sizes."""
        absent = [name for name in self.modules if f"{name}.weight" not in shapes]
        resized: list[str] = []
        for name in self.modules:
            wanted = shapes.get(f"{name}.weight")
            size = self.up(name).shape[0], self.down(name).shape[1]
            if wanted is not None and wanted != size:
                resized.append(f"{name} ({size[0]}x{size[1]} for {'x'.join(map(str, wanted))})")
        return absent, resized


def listed(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    every = sorted(names)
    more = f", and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more
