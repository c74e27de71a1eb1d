"""Tiny models in SAT's and in Diffusers' form, with the same random weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from small_sat import FAMILY, scramble


@pytest.fixture(scope="session", autouse=True)
def world() -> Iterator[None]:
    """The process world that SAT modules need."""
    from backends.sat.stack import SoloWorld

    opened = SoloWorld()
    yield
    opened.close()


@pytest.fixture(scope="session", params=FAMILY)
def transformers(request: pytest.FixtureRequest) -> Any:
    """(our transformer, Diffusers' transformer), equal weights."""
    from diffusers import CogVideoXTransformer3DModel

    from backends.checkpoints.mapping import transformer_table
    from backends.checkpoints.sat.checkpoint import OPTIONAL_TRANSFORMER_KEYS, load_exactly
    from backends.sat.transformer import DiffusionTransformer

    config = FAMILY[request.param]
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
        use_learned_positional_embeddings=config.learned_positions,
        patch_size_t=config.patch_size_t,
        patch_bias=config.patch_size_t is None,
        ofs_embed_dim=config.ofs_embed_dim,
    ).eval()
    scramble(other)
    if config.learned_positions:
        positions = other.patch_embed.pos_embedding
        generator = torch.Generator().manual_seed(5)
        positions.copy_(0.3 * torch.randn(positions.shape, generator=generator))
    own = DiffusionTransformer(config, torch.float32).eval()
    state = transformer_table(config).to_sat(dict(other.state_dict()))
    optional = {*OPTIONAL_TRANSFORMER_KEYS, "mixins.pos_embed.pos_embedding"}
    load_exactly(own, state, "the test", optional)
    return own, other
