"""Tiny random CogVideoX pipelines of the real topologies, saved by Diffusers itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from transformers import T5Config, T5EncoderModel, T5Tokenizer


@dataclass(frozen=True)
class Kind:
    """One member of the family. `tensors` and `regrouped` are counts of its transformer."""

    rotary: bool = True
    image: bool = False
    is_15: bool = False
    tensors: int = 64

    @property
    def learned(self) -> bool:
        return self.image and not self.is_15


KINDS = {
    "2b": Kind(rotary=False),
    "5b": Kind(),
    "5b-i2v": Kind(image=True, tensors=65),
    "1.5": Kind(is_15=True),
    "1.5-i2v": Kind(image=True, is_15=True, tensors=68),
}


def tiny_transformer(kind: Kind, **changes: Any) -> CogVideoXTransformer3DModel:
    newer: dict[str, Any] = {"patch_size_t": 2, "patch_bias": False} if kind.is_15 else {}
    if kind.is_15 and kind.image:
        newer["ofs_embed_dim"] = 64
    settings: dict[str, Any] = dict(
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=32 if kind.image else 16,
        num_layers=2,
        time_embed_dim=64,
        text_embed_dim=64,
        sample_width=8,
        sample_height=6,
        sample_frames=9,
        max_text_seq_length=16,
        use_rotary_positional_embeddings=kind.rotary,
        use_learned_positional_embeddings=kind.learned,
        **newer,
    )
    return CogVideoXTransformer3DModel(**(settings | changes))


def tiny_vae(kind: Kind) -> AutoencoderKLCogVideoX:
    return AutoencoderKLCogVideoX(
        block_out_channels=(32, 32, 64, 128),
        layers_per_block=1,
        sample_height=48,
        sample_width=64,
        scaling_factor=0.7 if kind.rotary else 1.15258426,
        invert_scale_latents=kind.is_15,
    )


def randomise(module: torch.nn.Module, spread: float = 1.0) -> torch.nn.Module:
    """Every stored tensor random, so that no two tensors, rows or norms are alike."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.copy_(spread * torch.randn(tensor.shape, generator=generator))
    return module


def save_pipeline(folder: Path, name: str, spread: float = 1.0) -> Path:
    """Save a random member of `KINDS`: 2b in fp16 with DDIM, others in bf16 with DPM; VAE in fp32.

    `spread` is the standard deviation of all weights; with 0.1 a render stays finite.
    """
    kind = KINDS[name]
    dtype = torch.bfloat16 if kind.rotary else torch.float16
    letters = [(letter, -2.0) for letter in "▁abcdefghijklmnopqrstuvwxyz,."]
    tokenizer = T5Tokenizer(
        vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters], extra_ids=0
    )
    t5 = T5Config(
        vocab_size=32, d_model=64, d_kv=16, d_ff=64, num_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    schedule = {
        "snr_shift_scale": 1.0 if kind.rotary else 3.0,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "clip_sample": False,
    }
    pipeline = CogVideoXImageToVideoPipeline if kind.image else CogVideoXPipeline
    pipeline(
        tokenizer=tokenizer,
        text_encoder=randomise(T5EncoderModel(t5), spread),
        vae=randomise(tiny_vae(kind), spread),
        transformer=randomise(tiny_transformer(kind), spread).to(dtype),
        scheduler=(CogVideoXDPMScheduler if kind.rotary else CogVideoXDDIMScheduler)(**schedule),
    ).save_pretrained(folder)
    return folder
