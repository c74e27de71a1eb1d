"""One fine-tuning round trip through SAT's own save and load.

`sat.training.model_io.save_checkpoint` and `load_checkpoint` on a module with the names of CogVideo's
engine, which saves transformer, VAE and T5 together. With deepspeed SAT writes the same file with
optimiser bookkeeping beside `module`; here its branch without deepspeed runs.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from backends.base import Pipeline
from backends.checkpoints import open_lora
from backends.checkpoints.lora.sat import YAML_NAME, check_representable, config_text
from backends.errors import CheckpointError
from backends.roundtrip.models import overlay
from backends.roundtrip.saved import engine_names
from backends.sat.adapter import SatBackend

ITERATION = 1


class SatDriver:
    """How SAT's users fine-tune; names of tensors are those of CogVideo's engine."""

    def __init__(
        self, model: Path, lora: Path | None, options: Mapping[str, Any], metadata: bool
    ) -> None:
        self._model, self._lora = model, lora
        self._options = dict(options)
        self._metadata = metadata

    def open(self) -> Pipeline:
        """The model before."""
        return self._opened(self._lora)

    def open_saved(self, folder: Path) -> Pipeline:
        """What was saved in `folder`, through SAT's own load, into weights that were all NaN."""
        pipeline = self._opened(None if self._lora is None else folder)
        module = _as_in_cogvideo(pipeline)
        with torch.no_grad():
            for tensor in module.state_dict().values():
                tensor.fill_(float("nan"))
        home = folder if self._lora is not None else folder / "transformer"
        with _alone():
            try:
                _model_io().load_checkpoint(module, Namespace(mode="inference", load=str(home)))
            except (ValueError, RuntimeError, KeyError, OSError) as error:
                raise CheckpointError(
                    f"SAT does not load {home}: {type(error).__name__}: {error}"
                ) from error
        return pipeline

    def trainable(self, pipeline: Pipeline) -> list[nn.Parameter]:
        """What the optimiser is given: the transformer, or the matrices of its LoRA."""
        return [
            parameter
            for name, parameter in self.network(pipeline).named_parameters()
            if self._lora is None or ".matrix_" in name
        ]

    def network(self, pipeline: Pipeline) -> nn.Module:
        """The transformer, as the engine calls it."""
        engine: Any = pipeline.native()
        return engine.diffusion_model

    def state(self, pipeline: Pipeline) -> dict[str, Tensor]:
        """The tensors in memory under the names that `read_saved` gives a checkpoint's."""
        return engine_names(_as_in_cogvideo(pipeline).state_dict())

    def save(self, pipeline: Pipeline, folder: Path) -> None:
        """Save the engine; with a LoRA also the training YAML, which alone keeps rank and alpha."""
        home = folder if self._lora is not None else folder / "transformer"
        args = Namespace(mode="inference", save=str(home), model_parallel_size=1)
        home.mkdir(parents=True, exist_ok=True)
        with _alone():
            _model_io().save_checkpoint(ITERATION, _as_in_cogvideo(pipeline), None, None, args)
        if self._lora is None:
            overlay(self._model, home, folder)
        elif self._metadata:
            kind = check_representable(open_lora(self._lora).modules)
            (folder / YAML_NAME).write_text(config_text(kind), encoding="utf-8")

    def _opened(self, lora: Path | None) -> Pipeline:
        options = self._options | ({} if lora is None else {"lora": str(lora)})
        return SatBackend().open(str(self._model), options)


def _as_in_cogvideo(pipeline: Pipeline) -> nn.Module:
    """The engine's parts in a module whose names are those of `SATVideoDiffusionEngine`."""
    engine: Any = pipeline.native()
    model, text, embedder = nn.Module(), nn.Module(), nn.Module()
    model.diffusion_model = engine.diffusion_model
    embedder.transformer = engine.conditioner.encoder
    text.embedders = nn.ModuleList([embedder])
    whole = nn.Module()
    whole.model, whole.first_stage_model, whole.conditioner = model, engine.first_stage_model, text
    return whole


def _model_io() -> Any:
    return import_module("sat.training.model_io")


@contextmanager
def _alone() -> Generator[None]:
    """SAT waits for the other ranks after saving; there are none."""
    with patch.object(torch.distributed, "barrier", _nobody_to_wait_for):
        yield


def _nobody_to_wait_for() -> None:
    pass
