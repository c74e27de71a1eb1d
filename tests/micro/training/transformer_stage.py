"""Training stage of the embedded transformers: v-prediction on latents, text encoder trained along."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor, nn

from tests.micro.training.clips import clip
from tests.micro.training.kinds import Kind, build_scheduler, build_transformer
from tests.micro.training.optim import Muon, cosine
from tests.micro.training.stack import Tokenizer, Vae
from tests.micro.training.text import build_text_encoder, token_ids

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
def encode_clips(vae: Vae, count: int, log: Callable[[str], None]) -> Latents:
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


@dataclass(frozen=True)
class Stretch:
    """A stretch of training: `steps` of one optimiser under a cosine over `horizon` steps."""

    muon: bool
    steps: int
    horizon: int
    lr: float


class _AdamW:
    """AdamW with the interface of `Muon`."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._inner = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=0.01)

    def step(self, lr: float) -> None:
        for group in self._inner.param_groups:
            group["lr"] = lr
        self._inner.step()
        self._inner.zero_grad(set_to_none=True)


def train_transformer(
    kind: Kind,
    latents: Latents,
    tokenizer: Tokenizer,
    stretches: list[Stretch],
    log: Callable[[str], None],
) -> Trained:
    """Train `kind` from scratch, each stretch from the averaged weights of the one before.

    AdamW learns colours and backgrounds quickly and then stalls; Muon goes on to positions and motion.
    """
    trained: Trained | None = None
    for stretch in stretches:
        log(f"{kind.name} {stretch}")
        trained = _train(kind, latents, tokenizer, stretch, trained, log)
    if trained is None:
        raise ValueError("no stretch of training was given")
    return trained


def _train(
    kind: Kind,
    latents: Latents,
    tokenizer: Tokenizer,
    stretch: Stretch,
    start: Trained | None,
    log: Callable[[str], None],
) -> Trained:
    """One stretch; returns the exponential moving average of the weights.

    The target is v = sqrt(abar) eps - sqrt(1 - abar) x0 (Salimans and Ho, 2022) with abar from the
    kind's own scheduler, zero terminal SNR included. Timesteps are stratified over a batch.
    """
    torch.manual_seed(kind.seed)
    z = latents.z.float() * kind.scaling_factor
    ids = token_ids(tokenizer, latents.captions)
    empty = token_ids(tokenizer, [""])[0]
    text_encoder, transformer = build_text_encoder(), build_transformer(kind)
    if start is not None:
        text_encoder.load_state_dict(start.text_encoder.state_dict())
        transformer.load_state_dict(start.transformer.state_dict())
    alpha_bar = build_scheduler(kind).alphas_cumprod.float()
    rotary = get_3d_rotary_pos_embed(32, ((0, 0), (4, 4)), (4, 4), 5) if kind.rotary else None
    parameters = [*transformer.parameters(), *text_encoder.parameters()]
    average = [p.detach().clone() for p in parameters]
    optimiser = Muon(parameters, betas=(0.9, 0.99)) if stretch.muon else _AdamW(parameters)
    started, running = time.perf_counter(), 0.0
    for step in range(stretch.steps):
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
        optimiser.step(cosine(step, stretch.horizon, stretch.lr, warmup=100))
        decay = min(0.998, (1 + step) / (10 + step))
        for kept, parameter in zip(average, parameters, strict=True):
            kept.lerp_(parameter.detach(), 1 - decay)
        running += float(loss.detach())
        if (step + 1) % 50 == 0:
            spent = time.perf_counter() - started
            log(
                f"{kind.name} step {step + 1}/{stretch.steps} loss {running / 50:.4f} {spent:.0f} s"
            )
            running = 0.0
    with torch.no_grad():
        for parameter, value in zip(parameters, average, strict=True):
            parameter.copy_(value)
    return Trained(transformer, text_encoder)
