"""The `sat` backend: a SAT model behind the stage contract.

options      the flat YAML options, checked
source       opening a SAT or Diffusers folder, through yaml_reader, layout and checkpoint
engine       the model as a whole: transformer, vae, text, denoiser, samplers
run          one render: stages and native loop
picture      the conditioning picture
lora         a LoRA put in force through SAT's own layers
identity     digests, settings, policies, canonical module names
stack        package `sat`, typed and quiet, in a world of one rank
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.base import (
    Approximation,
    Case,
    Identity,
    Inputs,
    Pipeline,
    Policies,
    Run,
    StepObserver,
)
from backends.errors import InvalidRequest
from backends.micro import checkpoint_path
from backends.noise import NoiseTape
from backends.sat.options import SatOptions, parse_options
from backends.sat.tree.checkout import check_requirements, find_checkout
from backends.stages.lora_options import lora_approximations

if TYPE_CHECKING:
    from torch import Tensor, nn

    from backends.sat.engine import SatEngine
    from backends.sat.run import SatRun


class SatBackend:
    """CogVideoX on SwissArmyTransformer; `conf/backend/sat.yaml` has the options."""

    def check_options(self, options: Mapping[str, Any]) -> None:
        parse_options(options)

    def makes(self, frames: int) -> bool:
        """An odd number of latent frames is decoded, the first to one frame and the others to four."""
        return frames % 8 == 1

    def approximations(self, options: Mapping[str, Any]) -> Mapping[str, Approximation]:
        return lora_approximations(options)

    def check(self, options: Mapping[str, Any]) -> None:
        parsed = parse_options(options)
        if parsed.repo is not None:
            find_checkout(parsed.repo)
            check_requirements()
        import_module("backends.sat.stack")
        import torch

        from backends.stages.runtime import check_runnable, resolve_device

        device = resolve_device(parsed.device)
        check_runnable(device, getattr(torch, parsed.dtype), parsed.attention)

    def open(self, model: str, options: Mapping[str, Any]) -> Pipeline:
        self.check(options)
        parsed = parse_options(options)
        if parsed.repo is None:
            return SatPipeline(model, parsed)
        from backends.sat.tree.pipeline import TreePipeline

        return TreePipeline(parsed.repo, _chosen_folder(model, parsed), parsed)


class SatPipeline:
    """One opened SAT model. Implements `Pipeline`; `native()` is the `SatEngine`."""

    def __init__(self, model: str, options: SatOptions) -> None:
        import torch

        from backends.sat.engine import SatEngine
        from backends.sat.source import open_source
        from backends.sat.stack import SoloWorld
        from backends.stages.convolutions import accumulate_in_float32
        from backends.stages.runtime import resolve_device

        config, text_encoder = (
            None if path is None else Path(path).expanduser()
            for path in (options.config, options.text_encoder)
        )
        source = open_source(_chosen_folder(model, options), config, text_encoder)
        self._options = options
        self._world = SoloWorld()
        try:
            self._engine: SatEngine | None = SatEngine.open(
                source, getattr(torch, options.dtype), resolve_device(options.device)
            )
            accumulate_in_float32(self._engine.first_stage_model)
            if options.lora is not None:
                from backends.sat.lora import attach_lora

                self._engine.fused_lora = attach_lora(
                    self._engine.diffusion_model,
                    source.config.transformer,
                    options.lora,
                    options.lora_scale,
                    options.lora_mode,
                    source.where,
                )
        except BaseException:
            self._world.close()
            raise

    def identity(self) -> Identity:
        from backends.sat.identity import read_identity

        return read_identity(self._opened())

    def policies(self) -> Policies:
        from backends.sat.identity import read_policies

        return read_policies(self._opened(), self._options.first_frame == "single")

    def modules(self) -> Mapping[str, nn.Module]:
        from backends.sat.identity import canonical_modules

        return canonical_modules(self._opened())

    def native(self) -> object:
        return self._opened()

    def prepare(self, case: Case, inputs: Inputs) -> Run:
        return self._run(case, inputs)

    def render(self, case: Case, inputs: Inputs, tape: NoiseTape, observe: StepObserver) -> Tensor:
        return self._run(case, inputs).render(tape, observe)

    def close(self) -> None:
        if self._engine is None:
            return
        import torch

        self._engine = None
        self._world.close()
        gc.collect()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def _opened(self) -> SatEngine:
        if self._engine is None:
            raise InvalidRequest("this pipeline is closed; open it again")
        return self._engine

    def _run(self, case: Case, inputs: Inputs) -> SatRun:
        from backends.sat.run import SatRun
        from backends.stages.runtime import in_force

        engine, options = self._opened(), self._options
        settings = partial(in_force, engine.diffusion_model, options.attention, options.allow_tf32)
        return SatRun(engine, case, inputs, settings, options.first_frame == "single")


def _chosen_folder(model: str, options: SatOptions) -> Path:
    """The folder that holds the model: the option `checkpoint`, else the case's `model`."""
    return checkpoint_path(model if options.checkpoint is None else options.checkpoint)
