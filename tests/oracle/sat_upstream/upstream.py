"""CogVideo's own SAT code, imported from a user's checkout and made to run on the CPU.

Nothing of it is copied: PARITY_COGVIDEO_SAT points at the `sat` folder of a checkout. What that
code imports and the project does not have (pytorch_lightning, kornia, beartype) is replaced by
stand-ins, and `Tensor.cuda` by the identity. Tag v1.0 (commit 4aebdb4) renders the 1.0 models.
The main branch (commit e519ece) cannot: its transformer wants patches of three sizes and its VAE
splits frames by a flag; it is driven here so that it computes the same mathematics (`is_v1` is
False).
"""

from __future__ import annotations

import os
import sys
import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

VARIABLE = "PARITY_COGVIDEO_SAT"
HOW = (
    f"set {VARIABLE} to the `sat` folder of a CogVideo checkout (best: tag v1.0) and run"
    " `pytest tests/oracle/sat_upstream`"
)


def checkout() -> Path | None:
    """The folder that the user named, if it is one."""
    value = os.environ.get(VARIABLE)
    return Path(value) if value and (Path(value) / "dit_video_concat.py").is_file() else None


def _stand_ins() -> None:
    lightning = types.ModuleType("pytorch_lightning")
    lightning.LightningModule = nn.Module
    beartype = types.ModuleType("beartype")
    beartype.beartype = lambda f: f
    names = types.ModuleType("beartype.typing")
    for name in ("Union", "Tuple", "Optional", "List"):
        setattr(names, name, getattr(typing, name))
    kornia = types.ModuleType("kornia")
    for module in (lightning, beartype, names, kornia):
        try:
            import_module(module.__name__)
        except ImportError:
            # Libraries ask for a module's spec to see whether it is installed.
            module.__spec__ = ModuleSpec(module.__name__, None)
            sys.modules[module.__name__] = module


def _identity(x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return x


class Upstream:
    """Upstream's modules under the names that the comparisons use."""

    def __init__(self, folder: Path) -> None:
        _stand_ins()
        sys.path.insert(0, str(folder))
        self.dit: Any = import_module("dit_video_concat")
        diffusion = "sgm.modules.diffusionmodules"
        self.sampling: Any = import_module(f"{diffusion}.sampling")
        self.discretizer: Any = import_module(f"{diffusion}.discretizer")
        self.denoiser: Any = import_module(f"{diffusion}.denoiser")
        self.wrappers: Any = import_module(f"{diffusion}.wrappers")
        self.vae: Any = import_module("vae_modules.cp_enc_dec")
        self.regularizers: Any = import_module("vae_modules.regularizers")
        self.util: Any = import_module("sgm.util")
        parameters = self.dit.ImagePatchEmbeddingMixin.__init__.__code__.co_varnames
        self.is_v1 = "bias" in parameters

    @contextmanager
    def on_cpu(self) -> Iterator[None]:
        """Run upstream code without CUDA, as the only context-parallel rank."""
        with (
            patch.object(torch.Tensor, "cuda", _identity),
            patch.object(self.util, "_CONTEXT_PARALLEL_SIZE", 1),
            patch.object(self.util, "_CONTEXT_PARALLEL_GROUP", object()),
            torch.no_grad(),
        ):
            yield
