"""Training stage of the embedded VAE, and the normalisation of its latents."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tests.micro.training.clips import draw, scene
from tests.micro.training.optim import Muon, cosine
from tests.micro.training.stack import Vae, diffusers

EVALUATION_SEED = 10_000_000
"""Seeds from here on are never trained on."""


@dataclass(frozen=True)
class Phase:
    """A stretch of training at one clip size.

    Attributes:
        steps: optimiser steps.
        size: side of the square cut out of 64x64 clips, in pixels.
        frames: frames per clip, the head of a 17-frame clip when fewer.
        batch: clips per step.
    """

    steps: int
    size: int
    frames: int
    batch: int


def build_vae() -> Vae:
    """A fresh VAE of the real topology, prepared to learn in few steps.

    Four levels, 8x in space, 4x in time, 16 latent channels, 32 groups per norm as in CogVideo's code.
    """
    vae = diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(32, 32, 32, 64),
        latent_channels=16,
        layers_per_block=1,
        norm_num_groups=32,
        temporal_compression_ratio=4,
        sample_height=64,
        sample_width=64,
    )
    with torch.no_grad():
        _prepare(vae)
    return vae


def _prepare(vae: Vae) -> None:
    for name, module in vae.named_modules():
        if not isinstance(module, nn.Conv3d):
            continue
        if name.endswith("conv2.conv"):  # every residual block starts as the identity
            module.weight.zero_()
        elif name.endswith("conv_y.conv") and module.bias is not None:
            module.weight.mul_(0.3)  # spatial norms start close to plain norms
            module.bias.fill_(1.0)
    # Group norm over two channels erases their common mean, and with it the colour. A constant of
    # opposite sign on the two makes the encoder's last norm nearly linear, so that means pass.
    last = vae.encoder.mid_block.resnets[-1].conv2.conv
    signs = torch.tensor([3.0, -3.0]).repeat(last.out_channels // 2)
    last.bias.copy_(signs)
    out = vae.encoder.conv_out.conv
    out.weight[out.out_channels // 2 :].zero_()
    out.bias[out.out_channels // 2 :].fill_(-6.0)


def batch_of(rng: np.random.Generator, phase: Phase) -> Tensor:
    """Random training clips, `(B, 3, T, H, W)` float32 in [-1, 1]."""
    clips: list[np.ndarray] = []
    for seed in rng.integers(EVALUATION_SEED, size=phase.batch):
        # Short clips are mostly the head of a 17-frame one: the first chunk the pipeline sees.
        whole = phase.frames if phase.frames > 17 or rng.random() < 0.2 else 17
        frames = draw(scene(int(seed)), frames=whole)[: phase.frames]
        y, x = rng.integers(64 - phase.size + 1, size=2)
        clips.append(frames[:, y : y + phase.size, x : x + phase.size])
    return torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3).contiguous() * 2 - 1


@torch.no_grad()
def psnr_db(vae: Vae, clips: int = 16, frames: int = 17, size: int = 64) -> float:
    """Mean PSNR over unseen clips through the VAE's own chunked encode and decode, in its dtype."""
    values: list[float] = []
    for index in range(clips):
        frames_01 = torch.from_numpy(draw(scene(EVALUATION_SEED + index), frames, size, size))
        video = frames_01.permute(3, 0, 1, 2)[None] * 2 - 1
        latent = vae.encode(video.to(vae.dtype)).latent_dist.mode()
        restored = ((vae.decode(latent).sample.float() + 1) / 2).clamp(0, 1)
        error = ((restored[0].permute(1, 2, 3, 0) - frames_01) ** 2).mean()
        values.append(float(-10 * torch.log10(error)))
    return float(np.mean(values))


def train_vae(
    vae: Vae,
    phases: list[Phase],
    lr: float,
    horizon: int,
    seed: int,
    log: Callable[[str], None],
) -> None:
    """Train in place, through the chunked `encode` and `decode` that the pipeline uses.

    Group norms take their statistics per chunk, so another path would train another function. The loss
    is the mean RMSE of a clip, plus a slight pull of the posterior towards the unit normal.

    Args:
        vae: the model, float32.
        phases: what to train on, in order.
        lr: peak of one learning-rate cosine over `horizon` steps, which may outlast the phases.
        seed: of clips, crops and posterior noise.
        log: receives one line of text at a time.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    optimiser = Muon(vae.parameters())
    started, step, running = time.perf_counter(), 0, 0.0
    for phase in phases:
        log(f"phase {phase}")
        for _ in range(phase.steps):
            video = batch_of(rng, phase)
            with torch.autocast("cpu", torch.bfloat16):
                posterior = vae.encode(video).latent_dist
                mean, logvar = posterior.mean.float(), posterior.logvar.float()
                latent = mean + torch.randn_like(mean) * torch.exp(0.5 * logvar)
                restored = vae.decode(latent).sample.float()
            rmse = (((restored - video) ** 2).mean((1, 2, 3, 4)) + 1e-6).sqrt().mean()
            divergence = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
            (rmse + 1e-5 * divergence).backward()
            optimiser.step(cosine(step, horizon, lr))
            step += 1
            running += float(rmse.detach())
            if step % 25 == 0:
                spent = time.perf_counter() - started
                log(f"step {step} rmse {running / 25:.4f} (of 2) {spent:.0f} s")
                running = 0.0
    log(f"psnr {psnr_db(vae, 8):.2f} dB (64x64x17, 8 unseen clips, float32)")


@torch.no_grad()
def normalise_latents(vae: Vae, std: float, clips: int = 48) -> None:
    """Rescale the latents to standard deviation `std` without changing what the VAE does.

    The encoder's last layer is multiplied by c and everything in the decoder that reads the latents
    divided by it: the input convolution and the spatial norms' two maps.
    """
    latents = [
        vae.encode(torch.from_numpy(draw(scene(i))).permute(3, 0, 1, 2)[None] * 2 - 1)
        .latent_dist.mode()
        for i in range(clips)
    ]  # fmt: skip
    c = std / float(torch.cat(latents).std())
    channels = vae.config.latent_channels
    out = vae.encoder.conv_out.conv
    out.weight[:channels].mul_(c)
    out.bias[:channels].mul_(c)
    out.bias[channels:].add_(2 * math.log(c))
    vae.decoder.conv_in.conv.weight.div_(c)
    for name, module in vae.decoder.named_modules():
        if name.endswith(("conv_y.conv", "conv_b.conv")):
            module.get_parameter("weight").div_(c)
