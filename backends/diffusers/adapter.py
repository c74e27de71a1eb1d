"""The Diffusers backend: the CogVideoX pipelines behind the stage contract, in every placement.

It is made of:

    options       the flat YAML options, checked
    checkpoint    opening a folder or hub id, with errors a user can act on
    lora          a LoRA put in force through Diffusers' own calls
    acceleration  compile, fused QKV, casting, quantization, caches
    placement     full device and the offload kinds; reading weights under each
    case          whether the model can render a case
    conditioning  the picture or clip of a case
    solver        the schedulers with tape, schedule and latent dtype imposed
    stack         the pipeline's parts, called as it calls them
    run           one render: stages and native loop
    identity      digests, settings, policies

and of `stages/runtime`: attention kernel and TF32, in force only while it computes.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from importlib import import_module
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
from backends.diffusers.options import (
    DiffusersOptions,
    approximations,
    parse_options,
    torch_dtype,
)
from backends.errors import InvalidRequest, MissingPrerequisite
from backends.noise import NoiseTape

if TYPE_CHECKING:
    from torch import Tensor, nn

    from backends.diffusers.lora import AttachedLora
    from backends.diffusers.run import DiffusersRun


class DiffusersBackend:
    """A CogVideoX pipeline on one device or offloaded; `conf/backend/diffusers.yaml` has the options.

    The checkpoint says whether it is text-to-video or image-to-video; a case with a `video` runs a
    text-to-video model in `CogVideoXVideoToVideoPipeline`.
    """

    def check_options(self, options: Mapping[str, Any]) -> None:
        parse_options(options)

    def makes(self, frames: int) -> bool:
        """Two latent frames are decoded at a time, eight frames, and one more where their number is odd.

        Measured for 1 to 33 frames asked: 5 to 8 give 8, 9 to 12 give 9, 13 to 16 give 16.
        """
        return frames % 8 in (0, 1)

    def approximations(self, options: Mapping[str, Any]) -> Mapping[str, Approximation]:
        return approximations(options)

    def check(self, options: Mapping[str, Any]) -> None:
        parsed = parse_options(options)
        for package in ("torch", "diffusers", "transformers"):
            try:
                import_module(package)
            except ImportError as error:
                raise MissingPrerequisite(
                    f"backend diffusers needs the package {package}; run `pip install {package}`, or"
                    " name an interpreter that has it in the variant's `python`"
                ) from error
        if parsed.lora is not None:
            from backends.diffusers.lora import check_peft

            check_peft()
        from backends.diffusers.acceleration import check_accelerations
        from backends.diffusers.placement import check_placement
        from backends.stages.runtime import check_runnable, resolve_device

        device = resolve_device(parsed.device)
        check_accelerations(parsed, device)
        check_placement(parsed.placement, device, parsed.use_stream)
        for name in {parsed.dtype, parsed.vae_dtype or parsed.dtype}:
            check_runnable(device, torch_dtype("dtype", name), parsed.attention)

    def open(self, model: str, options: Mapping[str, Any]) -> Pipeline:
        self.check(options)
        return DiffusersPipeline(model, parse_options(options))


class DiffusersPipeline:
    """One opened CogVideoX model. Implements `Pipeline`; `native()` is Diffusers' own pipeline."""

    def __init__(self, model: str, options: DiffusersOptions) -> None:
        from backends.diffusers.acceleration import accelerate
        from backends.diffusers.checkpoint import Source, load_pipeline
        from backends.diffusers.identity import TensorNames
        from backends.diffusers.placement import Placement
        from backends.stages.convolutions import accumulate_in_float32
        from backends.stages.runtime import resolve_device

        self._dtype = torch_dtype("dtype", options.dtype)
        self._vae_dtype = torch_dtype("vae_dtype", options.vae_dtype or options.dtype)
        self._text_dtype = torch_dtype("text_dtype", options.text_dtype or options.dtype)
        self._options = options
        dtypes = {
            "default": self._dtype,
            "transformer": self._dtype,
            "vae": self._vae_dtype,
            "text_encoder": self._text_dtype,
        }
        model = options.checkpoint or model
        source = Source(
            model, options.revision, options.variant, options.use_safetensors, options.transformer
        )
        pipe = load_pipeline(source, dtypes)
        accumulate_in_float32(pipe.vae)
        if options.vae_tiling:
            pipe.vae.enable_tiling()
        if options.vae_slicing:
            pipe.vae.enable_slicing()
        self._lora: AttachedLora | None = None
        if options.lora is not None:
            from backends.diffusers.lora import attach_lora

            self._lora = attach_lora(
                pipe, options.lora, options.lora_scale, options.lora_mode, model
            )
        self._names = TensorNames(pipe)
        accelerate(pipe, options)
        self._placement = Placement(
            pipe, options.placement, resolve_device(options.device), options.use_stream
        )
        self._pipe: Any = pipe

    def identity(self) -> Identity:
        from backends.diffusers.identity import read_identity

        placement = {
            "kind": self._options.placement,
            "execution_device": self._placement.label,
        }
        identity = read_identity(self._opened(), self._names, placement)
        if self._lora is None:
            return identity
        return self._lora.shown_in(identity, self._opened().transformer)

    def policies(self) -> Policies:
        from backends.diffusers.identity import read_policies

        return read_policies(self._opened(), self._options.dtype)

    def modules(self) -> Mapping[str, nn.Module]:
        from backends.diffusers.placement import COMPONENTS

        found: dict[str, nn.Module] = {}
        for component in COMPONENTS:
            root: nn.Module = getattr(self._opened(), component)
            for name, module in root.named_modules():
                found[f"{component}.{name}" if name else component] = module
        return found

    def native(self) -> object:
        return self._opened()

    def prepare(self, case: Case, inputs: Inputs) -> Run:
        return self._run(case, inputs)

    def render(self, case: Case, inputs: Inputs, tape: NoiseTape, observe: StepObserver) -> Tensor:
        return self._run(case, inputs).render(tape, observe)

    def close(self) -> None:
        if self._pipe is None:
            return
        import torch

        self._placement.remove()
        self._pipe = None
        del self._placement
        gc.collect()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def _opened(self) -> Any:
        if self._pipe is None:
            raise InvalidRequest("this pipeline is closed; open it again")
        return self._pipe

    def _run(self, case: Case, inputs: Inputs) -> DiffusersRun:
        from backends.diffusers.acceleration import check_guidance
        from backends.diffusers.case import check_case
        from backends.diffusers.conditioning import pipeline_for
        from backends.diffusers.run import DiffusersRun
        from backends.diffusers.stack import Stack
        from backends.stages.runtime import in_force

        pipe, options = self._opened(), self._options
        check_case(pipe, case)
        check_guidance(options, case)
        settings: partial[AbstractContextManager[None]] = partial(
            in_force, pipe.transformer, options.attention, options.allow_tf32
        )
        pipe = pipeline_for(pipe, case)
        stack = Stack(pipe, self._dtype, self._vae_dtype, self._text_dtype, settings)
        return DiffusersRun(stack, case, inputs)
