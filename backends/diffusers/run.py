"""One prepared render on Diffusers: the stages by hand, and the native loop with the tape injected."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from backends.base import Case, Inputs, Prediction, ScheduleTable, StepObserver
from backends.diffusers.acceleration import start_afresh
from backends.diffusers.case import check_text
from backends.diffusers.conditioning import Conditioning
from backends.diffusers.options import torch_dtype
from backends.diffusers.solver import Solver, scheduler_for
from backends.diffusers.stack import Stack
from backends.errors import InvalidRequest
from backends.noise import NoiseTape
from backends.stages.intercept import draws_from


class DiffusersRun:
    """Implements `Run`. Latents have the dtype of `latent_dtype`, native or imposed."""

    def __init__(self, stack: Stack, case: Case, inputs: Inputs) -> None:
        pipe = stack.pipe
        for name, given in (("text", inputs.text), ("negative_text", inputs.negative_text)):
            if given is not None:
                check_text(pipe, name, given)
        self._stack, self._case, self._inputs = stack, case, inputs
        self._guided = case.guidance_scale > 1.0
        self._texts: dict[str, Tensor] = {}
        self._multistep: tuple[int, Tensor] | None = None
        # As users pass one. Nothing is drawn from it: whoever asks for it is served by the tape.
        self._generator = torch.Generator()
        latent_dtype = stack.dtype
        if inputs.latent_dtype is not None:
            latent_dtype = torch_dtype("shared latent_dtype", inputs.latent_dtype)
        self._solver = Solver(
            scheduler_for(pipe.scheduler, case.sampler),
            case.steps,
            case.solver_steps,
            inputs.schedule,
            latent_dtype,
            imposed=latent_dtype != stack.dtype,
        )
        config = pipe.transformer.config
        latent_frames = (case.frames - 1) // pipe.vae_scale_factor_temporal + 1
        # CogVideoX 1.5 denoises whole temporal patches and drops the surplus before decoding.
        self._surplus = -latent_frames % (config.get("patch_size_t") or 1)
        self._shape = (
            1,
            latent_frames + self._surplus,
            int(pipe.vae.config.latent_channels),
            case.height // pipe.vae_scale_factor_spatial,
            case.width // pipe.vae_scale_factor_spatial,
        )
        padded_frames = case.frames + self._surplus * pipe.vae_scale_factor_temporal
        self._conditioning = Conditioning(stack, case, padded_frames, inputs.image_scale)
        self._picture: Tensor | None = None
        start_afresh(pipe.transformer)

    @property
    def text(self) -> Tensor:
        return self._embedding("text", self._inputs.text, self._case.prompt)

    @property
    def negative_text(self) -> Tensor:
        return self._embedding("negative", self._inputs.negative_text, self._case.negative_prompt)

    @property
    def schedule(self) -> ScheduleTable:
        return self._solver.table

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        return self._shape

    def encode_image(self, tape: NoiseTape) -> Tensor | None:
        if self._conditioning.picture is not None:
            with self._stack.in_force(), draws_from(tape):
                self._picture = self._conditioning.picture_latents(tape)
        return self._picture

    def encode_clip(self, tape: NoiseTape) -> Tensor | None:
        """What the pipeline would bring to a noise level, caught before it does."""
        if self._conditioning.clip is None:
            return None
        encoded: list[Tensor] = []

        def keep(clean: Tensor, _noise: Tensor, _timesteps: Tensor) -> Tensor:
            encoded.append(clean)
            return clean

        scheduler = self._solver.scheduler
        with patch.object(scheduler, "add_noise", keep):
            self._noised_clip(tape)
        return encoded[0]

    def initial_latents(self, tape: NoiseTape) -> Tensor:
        if self._conditioning.clip is None:
            return self._noise(tape) * self._solver.scheduler.init_noise_sigma
        return self._noised_clip(tape)

    def _noised_clip(self, tape: NoiseTape) -> Tensor:
        dtype, first = self._solver.latent_dtype, self._timestep(0)
        with (
            self._stack.in_force(),
            draws_from(tape),
            patch.object(self._stack.pipe, "scheduler", self._solver.scheduler),
            self._solver.attached(tape, _unseen),
        ):
            return self._conditioning.noised_clip(tape, first, dtype, self._shape)

    def predict(self, latents: Tensor, step: int) -> Prediction:
        """The loop body of the pipeline's `__call__` up to and including guidance."""
        case, timestep = self._case, self._timestep(step)
        if self._conditioning.picture is not None and self._picture is None:
            raise InvalidRequest("the picture is not encoded yet; call encode_image first")
        texts = [self.negative_text, self.text] if self._guided else [self.text]
        given = self._own(latents).to(self._stack.dtype)
        given = self._solver.scheduler.scale_model_input(given, timestep)
        branches = self._stack.denoise(
            given, self._picture, torch.cat(texts), timestep, case.height, case.width
        )
        velocity, scale = branches.float(), self._guidance_scale(int(timestep))
        if self._guided:
            negative, positive = velocity.chunk(2)
            velocity = negative + scale * (positive - negative)
        return Prediction(velocity, branches, scale)

    def step(self, latents: Tensor, prediction: Prediction, step: int, tape: NoiseTape) -> Tensor:
        scheduler, timestep = self._solver.scheduler, self._timestep(step)
        velocity = prediction.velocity.to(self._stack.device)
        latents = self._own(latents)
        self._solver.begin(latents)
        common = {"eta": 0.0, "generator": self._generator, "return_dict": False}
        with self._stack.in_force(), draws_from(tape), self._solver.attached(tape, _unseen, step):
            if self._case.sampler == "ddim":
                return scheduler.step(velocity, timestep, latents, **common)[0]
            result, clean = scheduler.step(
                velocity,
                self._previous_clean(step),
                timestep,
                self._timestep(step - 1) if step > 0 else None,
                latents,
                **common,
            )
        self._multistep = step, clean
        return result

    def decode(self, latents: Tensor) -> Tensor:
        return self._stack.decode(self._own(latents)[:, self._surplus :])

    def render(self, tape: NoiseTape, observe: StepObserver) -> Tensor:
        """The pipeline's `__call__` as users call it; frames (T, H, W, 3) float32 in [0, 1]."""
        stack, case, solver = self._stack, self._case, self._solver
        pipe, branches = stack.pipe, list[Tensor]()

        def keep(_module: object, _args: object, output: tuple[Tensor, ...]) -> None:
            branches.append(output[0])

        def seen(step: int, latents: Tensor, velocity: Tensor, result: Tensor) -> None:
            scale = float(pipe.guidance_scale) if self._guided else 1.0
            prediction = Prediction(velocity, branches.pop(), scale)
            observe(step, solver.table.timesteps[step], latents, prediction, result)

        def solvers_own(latents: Tensor) -> Tensor:
            return solver.latents_to_decode(latents)[:, -latents.shape[1] :]

        # Diffusers' own signature; a patch may have replaced the method by one that takes anything.
        upstream = getattr(import_module("diffusers"), type(pipe).__name__).prepare_latents
        signature, prepare_latents = inspect.signature(upstream), pipe.prepare_latents

        def prepare(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(pipe, *args, **kwargs).arguments
            del given["self"]
            return self._prepare(prepare_latents, given, tape)

        prompts = self._prompts()
        pipe.set_progress_bar_config(disable=True)
        handle = pipe.transformer.register_forward_hook(keep)
        try:
            with (
                stack.in_force(),
                draws_from(tape),
                patch.object(pipe, "scheduler", solver.scheduler),
                patch.object(pipe, "prepare_latents", prepare),
                solver.attached(tape, seen),
                stack.decoding(solvers_own),
            ):
                frames = pipe(
                    **prompts,
                    **self._conditioning.arguments,
                    height=case.height,
                    width=case.width,
                    num_inference_steps=case.steps,
                    guidance_scale=case.guidance_scale,
                    use_dynamic_cfg=case.dynamic_guidance,
                    generator=self._generator,
                    output_type="np",
                    max_sequence_length=stack.text_length,
                ).frames
        finally:
            handle.remove()
        return torch.from_numpy(frames[0])

    def _prepare(self, prepare_latents: Any, given: dict[str, Any], tape: NoiseTape) -> Any:
        """What the pipeline's own `prepare_latents` returns, with the noise from the tape."""
        conditioning, latent_dtype = self._conditioning, self._solver.latent_dtype
        if conditioning.clip is not None:
            start = conditioning.of_clip(prepare_latents, given, tape, latent_dtype, self._shape)
            rest = ()
        else:
            noise = _DrawnWhenMoved(lambda: self._noise(tape))
            prepared = conditioning.of_picture(prepare_latents, {**given, "latents": noise}, tape)
            start, *rest = prepared if isinstance(prepared, tuple) else (prepared,)
        self._solver.begin(start)
        carried = start.to(self._stack.dtype)
        return (carried, *rest) if rest else carried

    def _prompts(self) -> dict[str, Any]:
        """Prompts in words where the pipeline encodes them itself; embeddings where they are shared.

        The pipeline gives latents the dtype of the text encoder, so another `text_dtype` needs
        embeddings, too.
        """
        shared = self._inputs.text is not None or self._inputs.negative_text is not None
        if not shared and self._stack.text_dtype == self._stack.dtype:
            return {"prompt": self._case.prompt, "negative_prompt": self._case.negative_prompt}
        text = self.text  # the pipeline, too, encodes it first
        negative = self.negative_text if self._guided else None
        return {"prompt_embeds": text, "negative_prompt_embeds": negative}

    def _embedding(self, role: str, given: Tensor | None, words: str) -> Tensor:
        if role not in self._texts:
            embedding = self._stack.encode(words) if given is None else given
            self._texts[role] = embedding.to(self._stack.device, self._stack.dtype)
        return self._texts[role]

    def _noise(self, tape: NoiseTape) -> Tensor:
        """The initial draw, in the dtype that the latents have between steps."""
        with tape.stage("initial", 0, 1, 1, self._shape):
            drawn = torch.from_numpy(tape.draw(self._shape))
        return self._own(drawn)

    def _own(self, latents: Tensor) -> Tensor:
        """Latents as this run's solver keeps them; those of another stack may differ in dtype."""
        return latents.to(self._stack.device, self._solver.latent_dtype)

    def _timestep(self, step: int) -> Tensor:
        count = self._case.solver_steps
        if not 0 <= step < count:
            raise InvalidRequest(f"step {step}: this run has steps 0 to {count - 1}")
        return torch.tensor(self._solver.table.timesteps[step], device=self._stack.device)

    def _guidance_scale(self, timestep: int) -> float:
        """The scale at `timestep`; the dynamic one is Diffusers' formula, in its order."""
        scale, steps = self._case.guidance_scale, self._case.solver_steps
        if not self._guided:
            return 1.0
        if not self._case.dynamic_guidance:
            return scale
        return 1 + scale * ((1 - math.cos(math.pi * ((steps - timestep) / steps) ** 5.0)) / 2)

    def _previous_clean(self, step: int) -> Tensor | None:
        if step == 0:
            return None
        if self._multistep is None or self._multistep[0] != step - 1:
            raise InvalidRequest(
                f"step {step} of the dpm solver needs the clean sample of step {step - 1}, which was"
                " not the last one taken; drive the steps in order from 0"
            )
        return self._multistep[1]


class _DrawnWhenMoved:
    """Latents for `prepare_latents`, drawn when it moves them to the device.

    That is after it sampled a picture's posterior: the order in which upstream draws.
    """

    def __init__(self, draw: Callable[[], Tensor]) -> None:
        self._draw = draw

    def to(self, _device: object) -> Tensor:
        return self._draw()


def _unseen(step: int, latents: Tensor, velocity: Tensor, result: Tensor) -> None:
    """The caller of a stage sees its result."""
