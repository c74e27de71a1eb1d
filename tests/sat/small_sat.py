"""Tiny SAT settings, and what tests do with random models of them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from backends.checkpoints.sat.config import (
    GuidanceConfig,
    ModelConfig,
    SamplerConfig,
    ScheduleConfig,
    TextConfig,
    TransformerConfig,
    VaeConfig,
)

SCHEDULE = ScheduleConfig(0.00085, 0.0120, 1000, 3.0, keep_start=False, post_shift=False)
SIN_COS = TransformerConfig(
    num_layers=2, hidden_size=64, num_attention_heads=2, time_embed_dim=48, in_channels=4,
    out_channels=4, patch_size=2, num_frames=17, time_compressed_rate=4, latent_height=4,
    latent_width=6, text_length=5, text_hidden_size=16, positions="sin_cos",
    interpolation=(1.0, 1.875, 1.875), qk_norm=True, elementwise_affine=True,
    layernorm_epsilon=1e-5, vocab_size=1, max_sequence_length=64,
)  # fmt: skip
ROTARY = replace(SIN_COS, positions="rotary", interpolation=(1.0, 1.0, 1.0))
IMAGE = replace(ROTARY, in_channels=8, learned_positions=True)
PATCHED_IN_TIME = replace(ROTARY, patch_size_t=2, latent_height=8, latent_width=10)
PATCHED_IMAGE = replace(PATCHED_IN_TIME, in_channels=8, ofs_embed_dim=48)
FAMILY = {
    "2b": SIN_COS,
    "5b": ROTARY,
    "5b-i2v": IMAGE,
    "1.5": PATCHED_IN_TIME,
    "1.5-i2v": PATCHED_IMAGE,
}
VAE = VaeConfig(
    ch=32, ch_mult=(1, 1, 2), num_res_blocks=1, z_channels=4, image_channels=3,
    temporal_compress_times=4,
)  # fmt: skip
MODEL = ModelConfig(
    scale_factor=0.7,
    transformer=SIN_COS,
    vae=VAE,
    text=TextConfig("t5-v1_1-xxl", 5),
    denoiser_schedule=SCHEDULE,
    sampler=SamplerConfig("dpm", 50, SCHEDULE, GuidanceConfig(True, 6.0, 5.0, 50)),
)


def scramble(module: nn.Module) -> None:
    """Random weights everywhere, norms included, so that no term hides behind an initial zero."""
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(0.08 * noise + 0.5 * (parameter.ndim == 1))


def relative(came: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative L2 distance."""
    return float((came - expected).norm() / expected.norm())
