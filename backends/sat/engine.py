"""One opened SAT model: text encoding, guided denoising, the sampling loop, and decoding.

The counterpart of `SATVideoDiffusionEngine` and `sat/sample_video.py`. The whole engine, VAE and T5
included, runs in one dtype; the solver keeps float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from backends.checkpoints.sat import checkpoint
from backends.checkpoints.sat.config import GuidanceConfig, ModelConfig, SamplerKind
from backends.sat.denoiser import Denoised, Denoiser
from backends.sat.discretization import StepTable
from backends.sat.samplers import make_solver
from backends.sat.source import ModelSource
from backends.sat.stack import unchanged_process
from backends.sat.text import TextConditioner
from backends.sat.transformer import DiffusionTransformer
from backends.sat.vae import VideoAutoencoder, equal_pieces


class Noise(Protocol):
    """Where the engine's random numbers come from."""

    def initial(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal float32 of `shape` on the CPU, the start of the sampling."""
        ...

    def image(self, shape: tuple[int, ...]) -> AbstractContextManager[Callable[[Tensor], Tensor]]:
        """A context for the one draw of `shape` that samples a conditioning image's latents."""
        ...

    def step(self, index: int) -> AbstractContextManager[Callable[[Tensor], Tensor]]:
        """A context for step `index`, giving a function that draws noise like its argument."""
        ...


@dataclass(frozen=True)
class SamplingPlan:
    """Everything that one sampling needs. `text` is (2, L, D), unconditional first.

    `latent_dtype`, if given, is what latents are rounded to at the start and after every step.
    `image` (1, T, C, H, W) are the padded latents of the conditioning image, if the model takes one.
    """

    text: Tensor
    table: StepTable
    sampler: SamplerKind
    guidance: GuidanceConfig
    latent_dtype: torch.dtype | None = None
    image: Tensor | None = None


Observer = Callable[[int, Tensor, Denoised, Tensor], None]


class SatEngine(nn.Module):
    """Transformer, VAE and text conditioner of one model, on one device, all in one dtype."""

    def __init__(
        self, config: ModelConfig, conditioner: TextConditioner, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.diffusion_model = DiffusionTransformer(config.transformer, dtype)
        self.first_stage_model = VideoAutoencoder(config.vae).to(dtype)
        self.conditioner: TextConditioner = conditioner
        self.denoiser = Denoiser(self.diffusion_model, config.denoiser_schedule)
        self.fused_lora: dict[str, tuple[int, float]] | None = None
        self.eval().requires_grad_(False)

    @staticmethod
    def open(source: ModelSource, dtype: torch.dtype, device: torch.device) -> SatEngine:
        """Build the engine and load its weights. Needs a `SoloWorld`; raises `CheckpointError`."""
        text = TextConditioner(
            source.encoder_folder, source.tokenizer_folder, source.config.text.max_length, dtype
        )
        if source.text_encoder:
            checkpoint.load_exactly(text.encoder, source.text_encoder, source.where)
        with unchanged_process(), checkpoint.without_initialisation():
            engine = SatEngine(source.config, text, dtype)
        checkpoint.load_exactly(
            engine.diffusion_model, source.transformer, source.where, source.optional
        )
        checkpoint.load_exactly(engine.first_stage_model, source.vae, source.where)
        return engine.to(device)

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        return next(self.diffusion_model.parameters()).device

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer's blocks, in order."""
        return list(self.diffusion_model.get_submodule("mixins.adaln_layer.blocks").children())

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int, int]:
        """Shape (1, T, C, H, W) of the latents of a video of `height` x `width` pixels."""
        return self.config.latent_shape(frames, height, width)

    @torch.no_grad()
    def encode_text(self, prompt: str) -> tuple[Tensor, Tensor]:
        """Conditional and unconditional embedding (1, L, D); the latter is all zeros."""
        text: Tensor = self.conditioner(prompt)
        return text, torch.zeros_like(text)

    def start(self, plan: SamplingPlan, shape: tuple[int, ...], noise: Noise) -> Tensor:
        """Initial latents (B, T, C, H, W) in float32: unit noise, since sqrt(alpha_bar) is 0."""
        return self.rounded(plan, noise.initial(shape).to(self.device))

    def rounded(self, plan: SamplingPlan, latents: Tensor) -> Tensor:
        """Latents as float32, rounded to the plan's latent dtype if it has one."""
        if plan.latent_dtype is None:
            return latents
        return latents.to(plan.latent_dtype).float()

    @torch.no_grad()
    def denoise(self, plan: SamplingPlan, latents: Tensor, index: int) -> Denoised:
        """One guided denoiser call at step `index`."""
        return self.denoiser(latents, plan.text, plan.table, index, plan.guidance, plan.image)

    @torch.no_grad()
    def sample(
        self, plan: SamplingPlan, shape: tuple[int, ...], noise: Noise, observe: Observer
    ) -> Tensor:
        """Run the whole sampling and return the final latents in float32.

        `observe(index, latents, denoised, result)` sees every step.
        """
        solver = make_solver(plan.sampler, plan.table)
        latents = self.start(plan, shape, noise)
        for index in range(len(plan.table)):
            denoised = self.denoise(plan, latents, index)
            with noise.step(index) as draw:
                result = solver.step(latents, denoised.clean, index, draw)
            result = self.rounded(plan, result)
            observe(index, latents, denoised, result)
            latents = result
        return latents

    @torch.no_grad()
    def decode(self, latents: Tensor, lone_first: bool = False) -> Tensor:
        """Frames (B, T, H, W, 3) float32 in [0, 1] of latents (B, T, C, H, W).

        1.5 leaves out the first latent frame, its padding. Its first remaining one becomes four
        pixel frames, unless `lone_first`: CogVideo's main branch asks its VAE for a first frame of
        its own only when more than one process decodes (`sat/vae_modules/autoencoder.py`, `use_cp`).
        """
        scaled = 1.0 / self.config.scale_factor * latents.to(self.dtype).transpose(1, 2)
        if self.config.transformer.patch_size_t is None:
            video = self.first_stage_model.decode(scaled.contiguous())
        else:
            kept = scaled[:, :, 1:].contiguous()
            video = self.first_stage_model.decode(kept, equal_pieces(kept.shape[2]), lone_first)
        frames = torch.clamp((video.float() + 1.0) / 2.0, min=0.0, max=1.0)
        return frames.permute(0, 2, 3, 4, 1).contiguous()

    @torch.no_grad()
    def encode_image(
        self, picture: Tensor, shape: tuple[int, ...], scale: float | None, noise: Noise
    ) -> Tensor:
        """Latents `shape` (1, T, C, H, W) of `picture` (1, 3, H, W) in [-1, 1]: zeros but for the
        first frame.

        They are sampled from the VAE's posterior and multiplied by `scale`; None does what SAT does,
        step by step, since 1.5's detour over the scale factor rounds.
        """
        pixels = picture.to(self.device, self.dtype).unsqueeze(2)
        with noise.image((1, shape[2], 1, *shape[3:])) as draw:
            latents = self.first_stage_model.encode(pixels, draw)
        if scale is not None:
            latents = scale * latents
        else:
            latents = self.config.scale_factor * latents
            if self.config.transformer.patch_size_t is not None:
                latents = latents / self.config.scale_factor
        first = latents.transpose(1, 2)
        padding = first.new_zeros(1, shape[1] - 1, *shape[2:])
        return torch.cat((first, padding), dim=1)
