"""What a team that ports CogVideoX might have: a function that builds their pipeline, and its faults.

`PORT_FAULT` plants one of three defects that ports had: no rotary embedding, the other family's VAE
scaling factor, a scheduler with the other family's signal-to-noise shift.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backends.micro import model_path

if TYPE_CHECKING:
    from torch import Tensor, nn

    from backends.base import Case, Identity, Inputs, Policies, Run, StepObserver
    from backends.noise import NoiseTape


def original() -> Any:
    """The pipeline that was ported."""
    from diffusers import CogVideoXPipeline

    return CogVideoXPipeline.from_pretrained(str(model_path("micro-5b")))


def ported() -> Any:
    """The port; healthy unless PORT_FAULT says otherwise."""
    pipe = original()
    fault = os.environ.get("PORT_FAULT")
    if fault == "rope":
        pipe.transformer.register_to_config(use_rotary_positional_embeddings=False)
    elif fault == "vae":
        pipe.vae.register_to_config(scaling_factor=pipe.vae.config.scaling_factor * 1.3)
        pipe.vae_scaling_factor_image = pipe.vae.config.scaling_factor
    elif fault == "scheduler":
        pipe.scheduler = type(pipe.scheduler).from_config(
            pipe.scheduler.config, snr_shift_scale=pipe.scheduler.config.snr_shift_scale * 3
        )
    return pipe


class OwnPipeline:
    """A pipeline that is no Diffusers pipeline: it offers the stages of the contract itself."""

    def __init__(self) -> None:
        from backends.diffusers_given import GivenDiffusersPipeline

        self._inner = GivenDiffusersPipeline(ported(), None)

    def identity(self) -> Identity:
        return self._inner.identity()

    def policies(self) -> Policies:
        return self._inner.policies()

    def modules(self) -> Mapping[str, nn.Module]:
        return self._inner.modules()

    def native(self) -> object:
        return self

    def prepare(self, case: Case, inputs: Inputs) -> Run:
        return self._inner.prepare(case, inputs)

    def render(self, case: Case, inputs: Inputs, tape: NoiseTape, observe: StepObserver) -> Tensor:
        return self._inner.render(case, inputs, tape, observe)

    def close(self) -> None:
        raise AssertionError("parity must not close what its owner lent")
