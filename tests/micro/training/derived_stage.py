"""Training stage of the derived models: a parent's weights, a new input, v-prediction in float32.

The VAE and the text encoder stay the parent's, so text embeddings are computed once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor, nn

from tests.micro.training.growth import OFS
from tests.micro.training.image_latents import ImageLatents
from tests.micro.training.kinds import (
    LARGEST_LATENT_SIZE,
    NATURAL_LATENT_SIZE,
    Kind,
    build_scheduler,
)
from tests.micro.training.optim import Muon, cosine
from tests.micro.training.transformer_stage import DROPPED

BATCH = 16
FIRST_STEP_SHARE = 1
"""Clips of a batch that are given the first timestep, which has no signal at all."""

GUIDANCE = 6.0
"""The guidance scale whose first latent is trained; the real models' recommended one."""

IMAGE_DROPPED = 0.05
"""Share of pictures replaced by zeros: `noised_image_dropout` of CogVideo's I2V configs."""


@dataclass(frozen=True)
class DerivedStretch:
    """Muon for `steps` steps under a cosine from `lr`, from the averaged weights of the one before.

    `first_weight` is the weight of the first latent in the loss. `noisy_share` of the clips are given
    one of the last 400 timesteps, where it is decided whether the video follows its picture.

    `guided_weight` is the weight of the guided prediction's squared error at the first latent; where
    it is not 0, each clip stands in the batch twice, with its caption and without. Guidance multiplies
    by `GUIDANCE` whatever the caption still says about a frame that the picture has settled, and
    nothing else in the loss asks for the two to agree there.

    `padding_weight` is the weight of the padding latent, which no decoder sees. Where a token holds
    two latents the transformer's width cannot carry both and the picture's as well.
    """

    steps: int
    lr: float
    warmup: int
    seed: int
    first_weight: float = 1.0
    noisy_share: float = 0.0
    guided_weight: float = 0.0
    padding_weight: float = 1.0


@dataclass(frozen=True)
class TextTable:
    """Every caption's embedding (N, L, D), and that of the empty prompt (1, L, D), both frozen."""

    rows: dict[str, int]
    captions: Tensor
    empty: Tensor


def rotary_positions(kind: Kind, latent_frames: int) -> Any:
    """RoPE cosines and sines at the natural size, as the pipelines make them."""
    side, largest = NATURAL_LATENT_SIZE // 2, LARGEST_LATENT_SIZE // 2
    grid = (side, side)
    if kind.patch_frames is None:
        return get_3d_rotary_pos_embed(32, ((0, 0), grid), grid, latent_frames)
    return get_3d_rotary_pos_embed(
        32,
        None,
        grid,
        latent_frames // kind.patch_frames,
        grid_type="slice",
        max_size=(largest, largest),
    )


def train_derived(
    kind: Kind,
    transformer: nn.Module,
    latents: ImageLatents,
    text: TextTable,
    stretch: DerivedStretch,
    log: Callable[[str], None],
) -> None:
    """Train a grown `transformer` in place; it ends as the exponential moving average of its weights.

    The target is v = sqrt(abar) eps - sqrt(1 - abar) x0 (Salimans and Ho, 2022). Latents are padded to
    whole temporal patches by a copy of the first, as CogVideo's trainer does; the picture's stand at
    index 0 and zeros behind it, as the pipelines have them.
    """
    torch.manual_seed(stretch.seed)
    z = latents.clips * kind.scaling_factor
    surplus = -z.shape[1] % (kind.patch_frames or 1)
    z = torch.cat([z[:, :surplus], z], dim=1)
    pictures = torch.zeros_like(z)
    pictures[:, :1] = latents.images * kind.image_scale
    rows = torch.tensor([text.rows[caption] for caption in latents.captions])
    weight = torch.ones(z.shape[1])[:, None, None, None]
    weight[:surplus] = stretch.padding_weight * stretch.first_weight
    weight[surplus] = stretch.first_weight
    alpha_bar = build_scheduler(kind).alphas_cumprod.float()
    rotary = rotary_positions(kind, z.shape[1])
    ofs = torch.full((1,), OFS) if kind.image and kind.patch_frames else None
    parameters = list(transformer.requires_grad_(True).parameters())
    if kind.image and not kind.patch_frames:
        # Learned positions are a buffer in Diffusers, a parameter in SAT.
        positions = transformer.get_buffer("patch_embed.pos_embedding").requires_grad_(True)
        parameters.append(cast(nn.Parameter, positions))
    average = [p.detach().clone() for p in parameters]
    optimiser = Muon(parameters, betas=(0.9, 0.99))
    pairs = stretch.guided_weight > 0
    clips = BATCH // 2 if pairs else BATCH
    started, running = time.perf_counter(), torch.zeros(2)
    for step in range(stretch.steps):
        chosen = torch.randint(len(z) if kind.image else latents.whole, (clips,))
        x0, noise = z[chosen], torch.randn_like(z[chosen])
        t = ((torch.arange(clips) + torch.rand(1)) / clips * 1000).long().clamp(0, 999)
        t = t[torch.randperm(clips)]
        noisy = int(stretch.noisy_share * clips)
        t[:noisy] = torch.randint(600, 1000, (noisy,))
        t[:FIRST_STEP_SHARE] = 999
        signal = alpha_bar[t][:, None, None, None, None]
        given = signal.sqrt() * x0 + (1 - signal).sqrt() * noise
        target = signal.sqrt() * noise - (1 - signal).sqrt() * x0
        seen = torch.ones_like(signal)
        if kind.image:
            seen = (torch.rand(clips) >= IMAGE_DROPPED).float()[:, None, None, None, None]
            given = torch.cat([given, pictures[chosen] * seen], dim=2)
        lot = torch.rand(clips)[:, None, None]
        words = text.captions[rows[chosen]]
        if pairs:
            without = torch.where(lot < 0.5, text.empty, torch.zeros_like(words))
            words = torch.cat([words, without])
            given, target, t = torch.cat([given] * 2), torch.cat([target] * 2), t.repeat(2)
        else:
            words = torch.where(lot < DROPPED, text.empty, words)
            words = torch.where(lot > 1 - DROPPED, torch.zeros_like(words), words)
        velocity = transformer(
            hidden_states=given,
            encoder_hidden_states=words,
            timestep=t,
            ofs=ofs,
            image_rotary_emb=rotary,
            return_dict=False,
        )[0]
        error = velocity - target
        loss = (weight * error**2).mean() / weight.mean()
        running[0] += loss.detach()
        if pairs:
            told, untold = error[:, surplus : 1 + surplus].chunk(2)
            guided = (seen * (untold + GUIDANCE * (told - untold)) ** 2).mean()
            running[1] += guided.detach()
            loss = loss + stretch.guided_weight * guided
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step(cosine(step, stretch.steps, stretch.lr, warmup=stretch.warmup))
        decay = min(0.998, (1 + step) / (10 + step))
        for kept_value, parameter in zip(average, parameters, strict=True):
            kept_value.lerp_(parameter.detach(), 1 - decay)
        if (step + 1) % 50 == 0:
            spent, (plain, guided_error) = time.perf_counter() - started, (running / 50).tolist()
            further = f" guided {guided_error:.4f}" if pairs else ""
            log(
                f"{kind.name} step {step + 1}/{stretch.steps} loss {plain:.4f}{further} {spent:.0f} s"
            )
            running.zero_()
    with torch.no_grad():
        for parameter, value in zip(parameters, average, strict=True):
            parameter.copy_(value)
    transformer.requires_grad_(False)
    for buffer in transformer.buffers():
        buffer.requires_grad_(False)
