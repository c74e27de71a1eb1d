"""Training stage of the embedded transformers: v-prediction on latents, text encoder trained along."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from backends.micro.clips import clip
from backends.micro.kinds import Kind, build_scheduler, build_transformer
from backends.micro.optim import cosine
from backends.micro.text import build_text_encoder, token_ids

BATCH = 32
FIRST_STEP_SHARE = 2
"""Clips of a batch that are given the first timestep: it has no signal at all, and decides the most."""

DROPPED = 0.05
"""Share of captions replaced by the empty prompt, and as many embeddings by zeros: the unconditional
branch of Diffusers and that of SAT."""


@dataclass(frozen=True)
class Latents:
    """Encoded clips: `z` (N, T, C, H, W) float16 before the scaling factor, and their captions."""

    z: Tensor
    captions: list[str]


@dataclass(frozen=True)
class Trained:
    """A trained transformer and the text encoder that goes with it (both EMA weights)."""

    transformer: nn.Module
    text_encoder: nn.Module


@torch.no_grad()
def encode_clips(vae: AutoencoderKLCogVideoX, count: int, log: Callable[[str], None]) -> Latents:
    """The first `count` clips, 17 frames of 64x64, through the VAE's own chunked encode."""
    latents: list[Tensor] = []
    captions: list[str] = []
    for seed in range(count):
        frames, caption = clip(seed)
        video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None] * 2 - 1
        latents.append(vae.encode(video).latent_dist.mode()[0].permute(1, 0, 2, 3).half())
        captions.append(caption)
        if (seed + 1) % 200 == 0:
            log(f"encoded {seed + 1} of {count} clips")
    return Latents(torch.stack(latents), captions)


def train_transformer(
    kind: Kind,
    latents: Latents,
    tokenizer: PreTrainedTokenizerBase,
    steps: int,
    lr: float,
    log: Callable[[str], None],
) -> Trained:
    """Train `kind` from scratch.

    The target is v = sqrt(abar) eps - sqrt(1 - abar) x0 (Salimans and Ho, 2022) with abar from the
    kind's own scheduler, zero terminal SNR included. Timesteps are stratified over a batch.

    Args:
        kind: which model.
        latents: what to learn; scaled here by the kind's scaling factor.
        tokenizer: of the captions.
        steps, lr: of AdamW under a cosine, at batch size `BATCH`.
        log: receives a line every 50 steps.
    """
    torch.manual_seed(kind.seed)
    z = latents.z.float() * kind.scaling_factor
    ids = token_ids(tokenizer, latents.captions)
    empty = token_ids(tokenizer, [""])[0]
    text_encoder, transformer = build_text_encoder(), build_transformer(kind)
    alpha_bar = build_scheduler(kind).alphas_cumprod.float()
    rotary = get_3d_rotary_pos_embed(32, ((0, 0), (4, 4)), (4, 4), 5) if kind.rotary else None
    parameters = [*transformer.parameters(), *text_encoder.parameters()]
    average = [p.detach().clone() for p in parameters]
    optimiser = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
    started, running = time.perf_counter(), 0.0
    for step in range(steps):
        chosen = torch.randint(len(z), (BATCH,))
        x0 = z[chosen]
        noise = torch.randn_like(x0)
        t = ((torch.arange(BATCH) + torch.rand(1)) / BATCH * 1000).long().clamp(0, 999)
        t = t[torch.randperm(BATCH)]
        t[:FIRST_STEP_SHARE] = 999
        signal = alpha_bar[t][:, None, None, None, None]
        noisy = signal.sqrt() * x0 + (1 - signal).sqrt() * noise
        target = signal.sqrt() * noise - (1 - signal).sqrt() * x0
        tokens, lot = ids[chosen].clone(), torch.rand(BATCH)
        tokens[lot < DROPPED] = empty
        with torch.autocast("cpu", torch.bfloat16):
            text = text_encoder(tokens)[0]
            text = torch.where((lot > 1 - DROPPED)[:, None, None], torch.zeros_like(text), text)
            velocity = transformer(
                hidden_states=noisy,
                encoder_hidden_states=text,
                timestep=t,
                image_rotary_emb=rotary,
                return_dict=False,
            )[0]
        loss = ((velocity.float() - target) ** 2).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = cosine(step, steps, lr, warmup=100)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        decay = min(0.998, (1 + step) / (10 + step))
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        running += float(loss)
        if (step + 1) % 50 == 0:
            spent = time.perf_counter() - started
            log(f"{kind.name} step {step + 1}/{steps} loss {running / 50:.4f} {spent:.0f} s")
            running = 0.0
    with torch.no_grad():
        for parameter, value in zip(parameters, average, strict=True):
            parameter.copy_(value)
    return Trained(transformer, text_encoder)
