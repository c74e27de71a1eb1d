"""One prepared render on Diffusers: the stages by hand, and the native loop with the tape injected."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from unittest.mock import patch

import torch
from torch import Tensor

from backends.base import Case, Inputs, Prediction, ScheduleTable, StepObserver
from backends.diffusers_case import check_text
from backends.diffusers_options import torch_dtype
from backends.diffusers_solver import Solver, scheduler_for
from backends.errors import InvalidRequest
from backends.intercept import draws_from
from backends.noise import NoiseTape


class InForce(Protocol):
    """Puts a variant's process-wide settings in force for a block."""

    def __call__(self) -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class Stack:
    """An opened pipeline with what its runs need to know: dtypes and settings."""

    pipe: Any
    dtype: torch.dtype
    vae_dtype: torch.dtype
    text_dtype: torch.dtype
    in_force: InForce


class DiffusersRun:
    """Implements `Run`. Latents have the dtype of `latent_dtype`, native or imposed."""

    def __init__(self, stack: Stack, case: Case, inputs: Inputs) -> None:
        pipe = stack.pipe
        for name, given in (("text", inputs.text), ("negative_text", inputs.negative_text)):
            if given is not None:
                check_text(pipe, name, given)
        self._stack, self._case, self._inputs = stack, case, inputs
        self._device: torch.device = pipe._execution_device
        self._guided = case.guidance_scale > 1.0
        self._text: dict[str, Tensor] = {}
        self._multistep: tuple[int, Tensor] | None = None
        latent_dtype = stack.dtype
        if inputs.latent_dtype is not None:
            latent_dtype = torch_dtype("shared latent_dtype", inputs.latent_dtype)
        self._solver = Solver(
            scheduler_for(pipe.scheduler, case.sampler),
            case.steps,
            inputs.schedule,
            latent_dtype,
            imposed=latent_dtype != stack.dtype,
        )
        config = pipe.transformer.config
        latent_frames = (case.frames - 1) // pipe.vae_scale_factor_temporal + 1
        # CogVideoX 1.5 denoises whole temporal patches and drops the surplus before decoding.
        self._surplus = -latent_frames % (config.patch_size_t or 1)
        self._shape = (
            1,
            latent_frames + self._surplus,
            int(config.in_channels),
            case.height // pipe.vae_scale_factor_spatial,
            case.width // pipe.vae_scale_factor_spatial,
        )

    @property
    def text(self) -> Tensor:
        return self._encoded("text", self._inputs.text, self._case.prompt)

    @property
    def negative_text(self) -> Tensor:
        return self._encoded("negative", self._inputs.negative_text, self._case.negative_prompt)

    @property
    def schedule(self) -> ScheduleTable:
        return self._solver.table

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        return self._shape

    def initial_latents(self, tape: NoiseTape) -> Tensor:
        return self._noise(tape) * self._solver.scheduler.init_noise_sigma

    def predict(self, latents: Tensor, step: int) -> Prediction:
        """The loop body of `CogVideoXPipeline.__call__` up to and including guidance."""
        pipe, timestep = self._stack.pipe, self._timestep(step)
        texts = [self.negative_text, self.text] if self._guided else [self.text]
        embeddings = torch.cat(texts)
        with self._stack.in_force():
            carried = self._own(latents).to(self._stack.dtype)
            given = torch.cat([carried] * len(texts))
            given = self._solver.scheduler.scale_model_input(given, timestep)
            rotary = (
                pipe._prepare_rotary_positional_embeddings(
                    self._case.height, self._case.width, carried.size(1), self._device
                )
                if pipe.transformer.config.use_rotary_positional_embeddings
                else None
            )
            with pipe.transformer.cache_context("cond_uncond"):
                branches: Tensor = pipe.transformer(
                    hidden_states=given,
                    encoder_hidden_states=embeddings,
                    timestep=timestep.expand(given.shape[0]),
                    image_rotary_emb=rotary,
                    attention_kwargs=None,
                    return_dict=False,
                )[0]
            velocity = branches.float()
            scale = self._guidance_scale(int(timestep))
            if self._guided:
                negative, positive = velocity.chunk(2)
                velocity = negative + scale * (positive - negative)
        return Prediction(velocity, branches, scale)

    def step(self, latents: Tensor, prediction: Prediction, step: int, tape: NoiseTape) -> Tensor:
        scheduler, timestep = self._solver.scheduler, self._timestep(step)
        latents = self._own(latents)
        self._solver.begin(latents)
        common = {"eta": 0.0, "generator": None, "return_dict": False}
        with self._stack.in_force(), draws_from(tape), self._solver.attached(tape, _unseen, step):
            if self._case.sampler == "ddim":
                return scheduler.step(prediction.velocity, timestep, latents, **common)[0]
            result, clean = scheduler.step(
                prediction.velocity,
                self._previous_clean(step),
                timestep,
                self._timestep(step - 1) if step > 0 else None,
                latents,
                **common,
            )
        self._multistep = step, clean
        return result

    def decode(self, latents: Tensor) -> Tensor:
        pipe, latents = self._stack.pipe, self._own(latents)
        self._solver.begin(latents)
        with self._stack.in_force(), self._decoder():
            video = pipe.decode_latents(latents[:, self._surplus :])
            frames = pipe.video_processor.postprocess_video(video=video, output_type="np")
        pipe.maybe_free_model_hooks()
        return torch.from_numpy(frames[0])

    def render(self, tape: NoiseTape, observe: StepObserver) -> Tensor:
        """`CogVideoXPipeline.__call__` as users call it; frames (T, H, W, 3) float32 in [0, 1]."""
        pipe, case = self._stack.pipe, self._case
        branches: list[Tensor] = []

        def seen(step: int, latents: Tensor, velocity: Tensor, result: Tensor) -> None:
            scale = float(pipe.guidance_scale) if self._guided else 1.0
            prediction = Prediction(velocity, branches.pop(), scale)
            observe(step, self._solver.table.timesteps[step], latents, prediction, result)

        noise = self._noise(tape)
        self._solver.begin(noise * self._solver.scheduler.init_noise_sigma)

        def keep(_module: object, _args: object, output: tuple[Tensor, ...]) -> None:
            branches.append(output[0])

        handle = pipe.transformer.register_forward_hook(keep)
        pipe.set_progress_bar_config(disable=True)
        try:
            with (
                self._stack.in_force(),
                draws_from(tape),
                patch.object(pipe, "scheduler", self._solver.scheduler),
                self._solver.attached(tape, seen),
                self._decoder(),
            ):
                frames = pipe(
                    **self._prompts(),
                    height=case.height,
                    width=case.width,
                    num_frames=case.frames,
                    num_inference_steps=case.steps,
                    guidance_scale=case.guidance_scale,
                    use_dynamic_cfg=case.dynamic_guidance,
                    latents=noise.to(self._stack.dtype),
                    output_type="np",
                    max_sequence_length=pipe.transformer.config.max_text_seq_length,
                ).frames
        finally:
            handle.remove()
        return torch.from_numpy(frames[0])

    def _prompts(self) -> dict[str, Any]:
        """Prompts in words where the pipeline encodes them itself; embeddings where they are shared.

        The pipeline gives latents the dtype of the text encoder, so another `text_dtype` needs
        embeddings, too.
        """
        shared = self._inputs.text is not None or self._inputs.negative_text is not None
        if not shared and self._stack.text_dtype == self._stack.dtype:
            return {"prompt": self._case.prompt, "negative_prompt": self._case.negative_prompt}
        negative = self.negative_text if self._guided else None
        return {"prompt_embeds": self.text, "negative_prompt_embeds": negative}

    def _encoded(self, role: str, given: Tensor | None, words: str) -> Tensor:
        if role not in self._text:
            pipe, stack = self._stack.pipe, self._stack
            if given is None:
                with stack.in_force():
                    given, _ = pipe.encode_prompt(
                        words,
                        do_classifier_free_guidance=False,
                        max_sequence_length=pipe.transformer.config.max_text_seq_length,
                        device=self._device,
                        dtype=stack.dtype,
                    )
            assert given is not None
            self._text[role] = given.to(self._device, stack.dtype)
        return self._text[role]

    def _noise(self, tape: NoiseTape) -> Tensor:
        """The initial draw, in the dtype that the latents have between steps."""
        with tape.stage("initial", 0, 1, 1, self._shape):
            drawn = torch.from_numpy(tape.draw(self._shape))
        return self._own(drawn)

    def _own(self, latents: Tensor) -> Tensor:
        """Latents as this run's solver keeps them; those of another stack may come in another dtype."""
        return latents.to(self._device, self._solver.latent_dtype)

    def _timestep(self, step: int) -> Tensor:
        if not 0 <= step < self._case.steps:
            raise InvalidRequest(f"step {step}: this run has steps 0 to {self._case.steps - 1}")
        return torch.tensor(self._solver.table.timesteps[step], device=self._device)

    def _guidance_scale(self, timestep: int) -> float:
        """The scale at `timestep`; the dynamic one is Diffusers' formula, in its order."""
        scale, steps = self._case.guidance_scale, self._case.steps
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

    @contextmanager
    def _decoder(self) -> Generator[None]:
        """Hand the VAE its own dtype, and the solver's latents where the pipeline has a cast copy."""
        pipe, vae_dtype = self._stack.pipe, self._stack.vae_dtype
        decode_latents, vae_decode = pipe.decode_latents, pipe.vae.decode

        def from_solver(latents: Tensor) -> Tensor:
            return decode_latents(self._solver.latents_to_decode(latents)[:, -latents.shape[1] :])

        def in_own_dtype(z: Tensor, **kwargs: Any) -> Any:
            return vae_decode(z.to(vae_dtype), **kwargs)

        with (
            patch.object(pipe, "decode_latents", from_solver),
            patch.object(pipe.vae, "decode", in_own_dtype),
        ):
            yield


def _unseen(step: int, latents: Tensor, velocity: Tensor, result: Tensor) -> None:
    """The caller of a stage sees its result."""
