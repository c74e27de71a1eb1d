"""Tiny random CogVideoX pipelines of the real topology, saved by Diffusers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from transformers import T5Config, T5EncoderModel, T5Tokenizer


def tiny_transformer(rotary: bool, **changes: Any) -> CogVideoXTransformer3DModel:
    settings: dict[str, Any] = {
        "num_attention_heads": 4,
        "attention_head_dim": 32,
        "num_layers": 2,
        "time_embed_dim": 64,
        "text_embed_dim": 64,
        "sample_width": 8,
        "sample_height": 6,
        "sample_frames": 9,
        "max_text_seq_length": 16,
        "use_rotary_positional_embeddings": rotary,
    }
    return CogVideoXTransformer3DModel(**(settings | changes))


def tiny_vae(scaling_factor: float) -> AutoencoderKLCogVideoX:
    return AutoencoderKLCogVideoX(
        block_out_channels=(32, 32, 64, 128),
        layers_per_block=1,
        sample_height=48,
        sample_width=64,
        scaling_factor=scaling_factor,
    )


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    """Every parameter random, so that no two tensors, rows or norms are alike."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def save_pipeline(folder: Path, name: str) -> Path:
    """Save a random `2b` (sin-cos, fp16, DDIM) or `5b` (rotary, bf16, DPM); VAE in fp32."""
    rotary = name == "5b"
    dtype = torch.bfloat16 if rotary else torch.float16
    letters = [(letter, -2.0) for letter in "▁abcdefghijklmnopqrstuvwxyz,."]
    tokenizer = T5Tokenizer(
        vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters], extra_ids=0
    )
    t5 = T5Config(
        vocab_size=32, d_model=64, d_kv=16, d_ff=64, num_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    schedule = {
        "snr_shift_scale": 1.0 if rotary else 3.0,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "clip_sample": False,
    }
    CogVideoXPipeline(
        tokenizer=tokenizer,
        text_encoder=randomise(T5EncoderModel(t5)),
        vae=randomise(tiny_vae(0.7 if rotary else 1.15258426)),
        transformer=randomise(tiny_transformer(rotary)).to(dtype),
        scheduler=(CogVideoXDPMScheduler if rotary else CogVideoXDDIMScheduler)(**schedule),
    ).save_pretrained(folder)
    return folder
