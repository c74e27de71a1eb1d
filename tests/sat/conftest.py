"""Tiny models in SAT's and in Diffusers' form, with the same random weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from backends.sat.config import (
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


@pytest.fixture(scope="session", autouse=True)
def world() -> Iterator[None]:
    """The process world that SAT modules need."""
    from backends.sat.stack import SoloWorld

    opened = SoloWorld()
    yield
    opened.close()


@pytest.fixture(scope="session", params=[SIN_COS, ROTARY], ids=["sin_cos", "rotary"])
def transformers(request: pytest.FixtureRequest) -> Any:
    """(our transformer, Diffusers' transformer), equal weights."""
    from diffusers import CogVideoXTransformer3DModel

    from backends.checkpoints.mapping import transformer_table
    from backends.sat.checkpoint import OPTIONAL_TRANSFORMER_KEYS, load_exactly
    from backends.sat.transformer import DiffusionTransformer

    config: TransformerConfig = request.param
    other = CogVideoXTransformer3DModel(
        num_attention_heads=config.num_attention_heads,
        attention_head_dim=config.head_size,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        time_embed_dim=config.time_embed_dim,
        text_embed_dim=config.text_hidden_size,
        num_layers=config.num_layers,
        sample_width=config.latent_width,
        sample_height=config.latent_height,
        sample_frames=config.num_frames,
        max_text_seq_length=config.text_length,
        spatial_interpolation_scale=1.875,
        use_rotary_positional_embeddings=config.positions == "rotary",
    ).eval()
    scramble(other)
    own = DiffusionTransformer(config, torch.float32).eval()
    state = transformer_table(config).to_sat(dict(other.named_parameters()))
    optional = {*OPTIONAL_TRANSFORMER_KEYS, "mixins.pos_embed.pos_embedding"}
    load_exactly(own, state, "the test", optional)
    return own, other
