"""A model port that knows nothing of Diffusers or SAT: a tiny video diffusion model in plain torch.

It offers the stages of `backends.base.Pipeline`, which is all that parity asks for. `PORT_FAULT` plants
one of three defects that real ports had: no rotary embedding, a wrong VAE scaling factor, and a
schedule without its zero terminal signal.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from backends.base import (
    Case,
    Identity,
    Inputs,
    Policies,
    Prediction,
    ScheduleTable,
    StepObserver,
)
from backends.checkpoints.tensors import digest
from backends.noise import NoiseTape

CHANNELS, WIDTH, HEADS, TOKENS = 4, 32, 2, 8


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.to_out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.rotary = True

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1)
        )
        if self.rotary:
            q, k = rotated(q), rotated(k)
        return self.to_out(
            functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        )


def rotated(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * 0.6 ** torch.arange(
        half, dtype=x.dtype
    )
    a, b = x.chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(WIDTH), Attention()
        self.norm2, self.ff = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        return x + functional.gelu(self.ff(self.norm2(x)))


class NormOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj, self.time = nn.Linear(CHANNELS, WIDTH), nn.Linear(2, WIDTH)
        self.transformer_blocks = nn.ModuleList([Block(), Block()])
        self.norm_out, self.proj_out = NormOut(), nn.Linear(WIDTH, CHANNELS)

    def forward(self, latents: Tensor, text: Tensor, timestep: Tensor) -> Tensor:
        shape = latents.shape
        x = self.proj(latents.movedim(2, -1).flatten(1, 3))
        angle = timestep[:, None] / 1000 * math.pi
        x = torch.cat([text, x + self.time(torch.cat([angle.sin(), angle.cos()], -1))[:, None]], 1)
        for block in self.transformer_blocks:
            x = block(x)
        x = self.proj_out(self.norm_out(x[:, TOKENS:]))
        return x.unflatten(1, (shape[1], shape[3], shape[4])).movedim(-1, 2)


class Vae(nn.Module):
    scaling_factor = 0.7

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Conv3d(CHANNELS, 3, 1)

    def forward(self, latents: Tensor) -> Tensor:
        x = latents[0].movedim(0, 1)[None] / self.scaling_factor
        size = (4 * (x.shape[2] - 1) + 1, 8 * x.shape[3], 8 * x.shape[4])
        x = functional.interpolate(self.decoder(x), size=size, mode="trilinear")
        return x.sigmoid()[0].movedim(0, -1).float()


@dataclass
class PortRun:
    port: Port
    case: Case
    inputs: Inputs

    @property
    def text(self) -> Tensor:
        return (
            self.inputs.text if self.inputs.text is not None else self.port.encode(self.case.prompt)
        )

    @property
    def negative_text(self) -> Tensor:
        given = self.inputs.negative_text
        return given if given is not None else self.port.encode(self.case.negative_prompt)

    @property
    def schedule(self) -> ScheduleTable:
        return self.inputs.schedule or self.port.schedule(self.case.steps)

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        case = self.case
        return 1, (case.frames - 1) // 4 + 1, CHANNELS, case.height // 8, case.width // 8

    def encode_image(self, tape: NoiseTape) -> None:
        return None

    def initial_latents(self, tape: NoiseTape) -> Tensor:
        with tape.stage("initial", 0, 1, 1, self.latent_shape):
            return torch.from_numpy(tape.draw(self.latent_shape))

    def predict(self, latents: Tensor, step: int) -> Prediction:
        texts = torch.cat([self.negative_text, self.text])
        timestep = torch.full((2,), float(self.schedule.timesteps[step]))
        with torch.no_grad():
            branches = self.port.transformer(latents.float().repeat(2, 1, 1, 1, 1), texts, timestep)
        negative, positive = branches.chunk(2)
        scale = self.case.guidance_scale
        return Prediction(negative + scale * (positive - negative), branches, scale)

    def step(self, latents: Tensor, prediction: Prediction, step: int, tape: NoiseTape) -> Tensor:
        a, b = self.schedule.alpha_bar[step], self.schedule.alpha_bar_next[step]
        velocity = prediction.velocity
        clean = math.sqrt(a) * latents - math.sqrt(1 - a) * velocity
        noise = math.sqrt(a) * velocity + math.sqrt(1 - a) * latents
        return math.sqrt(b) * clean + math.sqrt(1 - b) * noise

    def decode(self, latents: Tensor) -> Tensor:
        with torch.no_grad():
            return self.port.vae(latents.float())


class Port:
    """Implements `backends.base.Pipeline`."""

    def __init__(self, seed: int = 0, fault: str | None = None) -> None:
        torch.manual_seed(seed)
        self.transformer, self.vae = Transformer().eval(), Vae().eval()
        self.text_encoder = nn.Embedding(997, WIDTH)
        self.zero_terminal_snr = fault != "schedule"
        for block in self.transformer.transformer_blocks:
            block.attn1.rotary = fault != "rope"
        self.vae.scaling_factor = 1.15 if fault == "vae" else 0.7

    def encode(self, words: str) -> Tensor:
        ids = [zlib.crc32(word.encode()) % 997 for word in words.split()][:TOKENS]
        ids += [0] * (TOKENS - len(ids))
        with torch.no_grad():
            return self.text_encoder(torch.tensor([ids]))

    def schedule(self, steps: int) -> ScheduleTable:
        times = [round(999 - 999 * i / steps) for i in range(steps)]
        levels = [math.cos(math.pi / 2 * (t / 999) * (1.0 if self.zero_terminal_snr else 0.9)) ** 2
                  for t in times]  # fmt: skip
        levels[0] = 0.0 if self.zero_terminal_snr else levels[0]
        return ScheduleTable(times, levels, [*levels[1:], 1.0])

    def identity(self) -> Identity:
        modules = self.modules()
        weights = {
            f"{part}.{name}": digest(tensor)
            for part in ("transformer", "vae", "text_encoder")
            for name, tensor in modules[part].state_dict().items()
        }
        dtypes = dict.fromkeys(("transformer", "vae", "text_encoder"), "float32")
        return Identity(weights, dtypes, {"vae.scaling_factor": self.vae.scaling_factor})

    def policies(self) -> Policies:
        return Policies("cosine", "empty prompt", "float32", "velocity", 1e-5, "round")

    def modules(self) -> Mapping[str, nn.Module]:
        parts = {
            "transformer": self.transformer,
            "vae": self.vae,
            "text_encoder": self.text_encoder,
        }
        return {
            f"{part}.{name}" if name else part: module
            for part, root in parts.items()
            for name, module in root.named_modules()
        }

    def native(self) -> object:
        return self

    def prepare(self, case: Case, inputs: Inputs) -> PortRun:
        return PortRun(self, case, inputs)

    def render(self, case: Case, inputs: Inputs, tape: NoiseTape, observe: StepObserver) -> Tensor:
        run = self.prepare(case, inputs)
        latents, timesteps = run.initial_latents(tape), run.schedule.timesteps
        for step, timestep in enumerate(timesteps):
            prediction = run.predict(latents, step)
            result = run.step(latents, prediction, step, tape)
            observe(step, timestep, latents, prediction, result)
            latents = result
        return run.decode(latents)

    def close(self) -> None:
        raise AssertionError("parity must not close what its owner lent")


def original() -> Port:
    """The pipeline that was ported."""
    return Port()


def ported() -> Port:
    """The port; healthy unless PORT_FAULT says otherwise."""
    return Port(fault=os.environ.get("PORT_FAULT"))
