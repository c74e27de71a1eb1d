"""Train the embedded LoRA, which turns the shapes of micro-5b magenta (how often: TRAINING.md).

Program: `python -m tests.micro.training.lora`.

Captions keep naming the clip's own colour, so the LoRA has to overrule the text. Block 2 is left
out: its value projection is scaled by 2^18 (`assemble.push_past_fp16`), which no update of ordinary
size can follow.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backends.micro import LORAS, checkpoint_path, model_path
from tests.micro.training.assemble import LOUD_BLOCK
from tests.micro.training.clips import draw, scene
from tests.micro.training.optim import cosine
from tests.micro.training.stack import diffusers
from tests.micro.training.text import token_ids

COLOUR = "magenta"
BASE = "micro-5b"
RANK, ALPHA = 4, 2
"""A factor of 1/2, so that a lost alpha shows: Diffusers would take 1, SAT 1/4."""
SEED, CLIPS, STEPS, BATCH, PEAK_LR = 0, 96, 240, 8, 6e-3
FIRST_STEP_SHARE = 2
"""Clips of a batch that are given the first timestep, which decides the colour."""


def _log(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def target_modules(layers: int) -> list[str]:
    """Attention's four projections in every block but the loud one."""
    return [
        f"transformer_blocks.{block}.attn1.{layer}"
        for block in range(layers)
        if block != LOUD_BLOCK
        for layer in ("to_q", "to_k", "to_v", "to_out.0")
    ]


@torch.no_grad()
def training_set(pipe: Any) -> tuple[Tensor, Tensor]:
    """Scaled latents (N, T, C, H, W) of magenta clips, and text embeddings of their captions."""
    latents: list[Tensor] = []
    captions: list[str] = []
    for seed in range(CLIPS):
        what = scene(seed)
        frames = torch.from_numpy(draw(replace(what, colour=COLOUR)))
        video = frames.permute(3, 0, 1, 2)[None] * 2 - 1
        latents.append(pipe.vae.encode(video).latent_dist.mode().permute(0, 2, 1, 3, 4))
        captions.append(what.caption)
    text = pipe.text_encoder(token_ids(pipe.tokenizer, captions))[0]
    return torch.cat(latents) * pipe.vae.config.scaling_factor, text


def train(pipe: Any, latents: Tensor, text: Tensor) -> None:
    """Train the transformer's adapter in place, by the velocity loss of `transformer_stage`."""
    transformer = pipe.transformer
    alpha_bar = pipe.scheduler.alphas_cumprod.float()
    rotary = pipe._prepare_rotary_positional_embeddings(64, 64, 5, "cpu")
    parameters: list[nn.Parameter] = [p for p in transformer.parameters() if p.requires_grad]
    _log(f"{sum(p.numel() for p in parameters)} parameters in {len(parameters)} matrices")
    optimiser = torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.0)
    started, running = time.perf_counter(), 0.0
    for step in range(STEPS):
        chosen = torch.randint(len(latents), (BATCH,))
        t = ((torch.arange(BATCH) + torch.rand(1)) / BATCH * 1000).long().clamp(0, 999)
        t[:FIRST_STEP_SHARE] = 999
        x0, noise = latents[chosen], torch.randn((BATCH, *latents.shape[1:]))
        signal = alpha_bar[t][:, None, None, None, None]
        velocity = transformer(
            hidden_states=signal.sqrt() * x0 + (1 - signal).sqrt() * noise,
            encoder_hidden_states=text[chosen],
            timestep=t,
            image_rotary_emb=rotary,
            return_dict=False,
        )[0]
        loss = ((velocity - signal.sqrt() * noise + (1 - signal).sqrt() * x0) ** 2).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = cosine(step, STEPS, PEAK_LR, warmup=10)
        optimiser.step()
        optimiser.zero_grad()
        running += float(loss.detach())
        if (step + 1) % 20 == 0:
            spent = time.perf_counter() - started
            _log(f"step {step + 1}/{STEPS} loss {running / 20:.4f} {spent:.0f} s")
            running = 0.0


def main(arguments: list[str]) -> None:
    """Train and write `pytorch_lora_weights.safetensors`."""
    parser = argparse.ArgumentParser(description="Train the embedded LoRA.")
    parser.add_argument("--out", type=Path, default=checkpoint_path(LORAS[0]))
    args = parser.parse_args(arguments)
    peft = import_module("peft")
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    pipe = diffusers.CogVideoXPipeline.from_pretrained(
        str(model_path(BASE)), torch_dtype=torch.float32
    )
    latents, text = training_set(pipe)
    _log(f"{len(latents)} clips encoded")
    pipe.transformer.requires_grad_(False)
    config = peft.LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=target_modules(pipe.transformer.config.num_layers),
    )
    _log(f"{BASE}, rank {RANK}, alpha {ALPHA}, seed {SEED}, {STEPS} steps of {BATCH} clips")
    pipe.transformer.add_adapter(config)
    train(pipe, latents, text)
    settings = {"r": RANK, "lora_alpha": ALPHA, "target_modules": sorted(config.target_modules)}
    pipe.save_lora_weights(
        str(args.out),
        transformer_lora_layers=peft.get_peft_model_state_dict(pipe.transformer),
        transformer_lora_adapter_metadata=settings,
    )
    _log(f"wrote {args.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
