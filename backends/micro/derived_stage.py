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

from backends.micro.image_latents import ImageLatents
from backends.micro.kinds import (
    LARGEST_LATENT_SIZE,
    NATURAL_LATENT_SIZE,
    Kind,
    build_scheduler,
    build_transformer,
)
from backends.micro.optim import Muon, cosine
from backends.micro.transformer_stage import DROPPED

BATCH = 16
FIRST_STEP_SHARE = 1
"""Clips of a batch that are given the first timestep, which has no signal at all."""

IMAGE_DROPPED = 0.05
"""Share of pictures replaced by zeros: `noised_image_dropout` of CogVideo's I2V configs."""

OFS = 2.0
"""The one value that both code bases give the `ofs` embedding."""


@dataclass(frozen=True)
class TextTable:
    """Every caption's embedding (N, L, D), and that of the empty prompt (1, L, D), both frozen."""

    rows: dict[str, int]
    captions: Tensor
    empty: Tensor


@torch.no_grad()
def grow(kind: Kind, parent: nn.Module) -> nn.Module:
    """A transformer of `kind` that computes nearly what `parent` does before it is trained.

    New picture channels and learned positions start at zero. A temporal patch starts as the mean of
    its frames, its output as copies of theirs. The `ofs` embedding starts at zero for `OFS` only.
    """
    grown = build_transformer(kind)
    state, given = grown.state_dict(), parent.state_dict()
    for name, tensor in state.items():
        source = given.get(name)
        if source is not None and source.shape == tensor.shape:
            tensor.copy_(source)
    _grow_patch(kind, state, given)
    if "patch_embed.pos_embedding" in state:
        state["patch_embed.pos_embedding"].zero_()
    grown.load_state_dict(state)
    if kind.patch_frames is not None and kind.image:
        bias = grown.get_parameter("ofs_embedding.linear_2.bias")
        projected = grown.get_submodule("ofs_proj")(torch.full((1,), OFS))
        bias.sub_(grown.get_submodule("ofs_embedding")(projected)[0])
    return grown


def _grow_patch(kind: Kind, state: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    """Fill `patch_embed.proj` and `proj_out`, whose shapes follow channels and temporal patch."""
    weight, old = state["patch_embed.proj.weight"], given["patch_embed.proj.weight"]
    frames = kind.patch_frames or 1
    # Columns are ordered (channel, frame, row, column) in both the convolution and the linear layer.
    was_linear = old.ndim == 2
    old = old.reshape(len(old), 16, -1, 2, 2)
    fresh = torch.zeros(len(weight), weight[0].numel() // (4 * frames), frames, 2, 2)
    fresh[:, :16] = old if was_linear else old.expand(-1, -1, frames, -1, -1) / frames
    weight.copy_(fresh.reshape(weight.shape))
    if not was_linear and frames > 1:
        # Rows are ordered (channel, frame, row, column) here as well.
        out = given["proj_out.weight"].reshape(16, 1, 4, -1).expand(-1, frames, -1, -1)
        state["proj_out.weight"].copy_(out.reshape(state["proj_out.weight"].shape))
        bias = given["proj_out.bias"].reshape(16, 1, 4).expand(-1, frames, -1)
        state["proj_out.bias"].copy_(bias.reshape(-1))


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
    parent: nn.Module,
    latents: ImageLatents,
    text: TextTable,
    steps: int,
    lr: float,
    log: Callable[[str], None],
) -> nn.Module:
    """Train `kind` from `parent`; returns the exponential moving average of the weights.

    The target is v = sqrt(abar) eps - sqrt(1 - abar) x0 (Salimans and Ho, 2022). Latents are padded to
    whole temporal patches by a copy of the first, as CogVideo's trainer does; the picture's stand at
    index 0 and zeros behind it, as the pipelines have them.
    """
    torch.manual_seed(kind.seed)
    z = latents.clips * kind.scaling_factor
    surplus = -z.shape[1] % (kind.patch_frames or 1)
    z = torch.cat([z[:, :surplus], z], dim=1)
    pictures = torch.zeros_like(z)
    pictures[:, :1] = latents.images * kind.image_scale
    rows = torch.tensor([text.rows[caption] for caption in latents.captions])
    transformer = grow(kind, parent)
    alpha_bar = build_scheduler(kind).alphas_cumprod.float()
    rotary = rotary_positions(kind, z.shape[1])
    ofs = torch.full((1,), OFS) if kind.image and kind.patch_frames else None
    parameters = list(transformer.parameters())
    if kind.image and not kind.patch_frames:
        # Learned positions are a buffer in Diffusers, a parameter in SAT.
        positions = transformer.get_buffer("patch_embed.pos_embedding").requires_grad_(True)
        parameters.append(cast(nn.Parameter, positions))
    average = [p.detach().clone() for p in parameters]
    optimiser = Muon(parameters, betas=(0.9, 0.99))
    started, running = time.perf_counter(), 0.0
    for step in range(steps):
        chosen = torch.randint(len(z) if kind.image else latents.whole, (BATCH,))
        x0, noise = z[chosen], torch.randn_like(z[chosen])
        t = ((torch.arange(BATCH) + torch.rand(1)) / BATCH * 1000).long().clamp(0, 999)
        t = t[torch.randperm(BATCH)]
        t[:FIRST_STEP_SHARE] = 999
        signal = alpha_bar[t][:, None, None, None, None]
        given = signal.sqrt() * x0 + (1 - signal).sqrt() * noise
        target = signal.sqrt() * noise - (1 - signal).sqrt() * x0
        if kind.image:
            kept = (torch.rand(BATCH) >= IMAGE_DROPPED)[:, None, None, None, None]
            given = torch.cat([given, pictures[chosen] * kept], dim=2)
        lot = torch.rand(BATCH)[:, None, None]
        words = torch.where(lot < DROPPED, text.empty, text.captions[rows[chosen]])
        words = torch.where(lot > 1 - DROPPED, torch.zeros_like(words), words)
        velocity = transformer(
            hidden_states=given,
            encoder_hidden_states=words,
            timestep=t,
            ofs=ofs,
            image_rotary_emb=rotary,
            return_dict=False,
        )[0]
        loss = ((velocity - target) ** 2).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step(cosine(step, steps, lr, warmup=100))
        decay = min(0.998, (1 + step) / (10 + step))
        for kept_value, parameter in zip(average, parameters, strict=True):
            kept_value.lerp_(parameter.detach(), 1 - decay)
        running += float(loss.detach())
        if (step + 1) % 50 == 0:
            spent = time.perf_counter() - started
            log(f"{kind.name} step {step + 1}/{steps} loss {running / 50:.4f} {spent:.0f} s")
            running = 0.0
    with torch.no_grad():
        for parameter, value in zip(parameters, average, strict=True):
            parameter.copy_(value)
    return transformer.requires_grad_(False)
