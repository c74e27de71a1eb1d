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


def open_lora(path: Path) -> Lora:
    """Open the LoRA at `path`, a file or a folder of either format.

    Diffusers: a safetensors file, or a folder with `pytorch_lora_weights.safetensors` or one other.
    SAT: `mp_rank_00_model_states.pt`, or a folder with `latest`. Raises `CheckpointError` naming
    what is missing, damaged, or not a LoRA of a CogVideoX transformer; `Unsupported` for DoRA and
    biases.
    """
    from backends.checkpoints.lora_diffusers import open_diffusers_lora
    from backends.checkpoints.lora_sat import open_sat_lora

    if (file := _diffusers_file(path)) is not None:
        return open_diffusers_lora(file)
    if path.suffix == ".pt" or (path / "latest").is_file():
        return open_sat_lora(path)
    there = sorted(p.name for p in path.iterdir())[:_SHOWN] if path.is_dir() else []
    found = f"a folder with {', '.join(there) or 'nothing'}" if path.is_dir() else "no folder"
    raise CheckpointError(
        f"no LoRA at {path}: expected {WEIGHT_NAME} or one other safetensors file (Diffusers), or"
        f" `latest` with mp_rank_00_model_states.pt (SAT), found {found}"
    )


def is_lora(path: Path) -> bool:
    """Whether `path` looks like a LoRA rather than a whole model; nothing is read."""
    if path.is_file():
        return path.suffix in (".safetensors", ".pt")
    whole = (path / "model_index.json").is_file() or (path / "transformer").is_dir()
    return not whole and (_diffusers_file(path) is not None or (path / "latest").is_file())


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


def _diffusers_file(path: Path) -> Path | None:
    if path.suffix == ".safetensors" and path.is_file():
        return path
    if not path.is_dir():
        return None
    if (path / WEIGHT_NAME).is_file():
        return path / WEIGHT_NAME
    found = sorted(path.glob("*.safetensors"))
    return found[0] if len(found) == 1 and not (path / "config.json").is_file() else None
