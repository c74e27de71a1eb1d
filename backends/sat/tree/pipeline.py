"""CogVideo's own code behind the stage contract."""

from __future__ import annotations

import gc
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from backends.base import Case, Identity, Inputs, Policies, Run, StepObserver
from backends.errors import InvalidRequest
from backends.noise import NoiseTape
from backends.sat.identity import canonical_modules, read_identity, read_policies
from backends.sat.options import SatOptions
from backends.sat.tree.checkout import code_digest
from backends.sat.tree.device import on_device
from backends.sat.tree.engine import TreeEngine, open_engine
from backends.sat.tree.run import TreeRun
from backends.stages.convolutions import accumulate_in_float32
from backends.stages.runtime import in_force, resolve_device


class TreePipeline:
    """One model opened by CogVideo's own code. Implements `Pipeline`; `native()` is its
    `SATVideoDiffusionEngine`."""

    def __init__(self, repo: str, model: Path, options: SatOptions) -> None:
        config, inference, text_encoder = (
            None if path is None else Path(path).expanduser()
            for path in (options.config, options.inference_config, options.text_encoder)
        )
        self._options = options
        self._engine: TreeEngine | None
        self._engine, self._resources = open_engine(
            repo,
            model,
            config,
            inference,
            text_encoder,
            getattr(torch, options.dtype),
            resolve_device(options.device),
        )
        accumulate_in_float32(self._engine.first_stage_model)

    def identity(self) -> Identity:
        engine = self._opened()
        identity = read_identity(engine)
        code = code_digest(engine.code.folder)
        return replace(identity, configs=identity.configs | {"cogvideo.code_sha256": code})

    def policies(self) -> Policies:
        return read_policies(self._opened(), self._options.first_frame == "single")

    def modules(self) -> Mapping[str, nn.Module]:
        return canonical_modules(self._opened())

    def native(self) -> object:
        return self._opened().native

    def prepare(self, case: Case, inputs: Inputs) -> Run:
        return self._run(case, inputs)

    def render(self, case: Case, inputs: Inputs, tape: NoiseTape, observe: StepObserver) -> Tensor:
        return self._run(case, inputs).render(tape, observe)

    def close(self) -> None:
        if self._engine is None:
            return
        self._engine = None
        self._resources.close()
        gc.collect()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def _opened(self) -> TreeEngine:
        if self._engine is None:
            raise InvalidRequest("this pipeline is closed; open it again")
        return self._engine

    def _run(self, case: Case, inputs: Inputs) -> TreeRun:
        engine, options = self._opened(), self._options

        @contextmanager
        def settings() -> Generator[None]:
            transformer = engine.diffusion_model
            with (
                in_force(transformer, options.attention, options.allow_tf32),
                on_device(engine.device),
            ):
                yield

        return TreeRun(engine, case, inputs, settings, options.first_frame == "single")
