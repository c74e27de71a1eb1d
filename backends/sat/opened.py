"""What identity, checks and names need of an opened SAT model, whoever built it.

`SatEngine` is one; a model that CogVideo's own code built (`backends.sat.tree`) is another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn

from backends.checkpoints.sat.config import ModelConfig


class Conditioner(Protocol):
    """A T5 encoder with its tokenizer."""

    @property
    def encoder(self) -> nn.Module: ...

    def is_cut(self, text: str) -> bool:
        """Whether `text` has more tokens than the model takes."""
        ...


class OpenedModel(Protocol):
    """One SAT model in memory; submodules carry SAT's names.

    `blocks` are modules that run once per transformer block, called as Diffusers' blocks are.
    """

    @property
    def config(self) -> ModelConfig: ...

    @property
    def diffusion_model(self) -> nn.Module: ...

    @property
    def first_stage_model(self) -> nn.Module: ...

    @property
    def conditioner(self) -> Conditioner: ...

    @property
    def blocks(self) -> Sequence[nn.Module]: ...

    @property
    def device(self) -> torch.device: ...
