"""The transformer against Diffusers' own, with the same weights."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from small_sat import relative

LATENTS = torch.randn(2, 3, 4, 4, 6, generator=torch.Generator().manual_seed(1))
TEXT = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(2))
TIMES = torch.tensor([999.0, 19.0])


def _both(transformers: Any) -> tuple[torch.Tensor, torch.Tensor]:
    own, other = transformers
    rotary = None
    if other.config.use_rotary_positional_embeddings:
        rotary = get_3d_rotary_pos_embed(32, ((0, 0), (2, 3)), grid_size=(2, 3), temporal_size=3)
    with torch.no_grad():
        came = own(LATENTS, TIMES, TEXT)
        expected = other(LATENTS, TEXT, TIMES, image_rotary_emb=rotary).sample
    return came, expected


def test_equals_diffusers_but_for_the_output_norm(transformers: Any) -> None:
    _, other = transformers
    came, expected = _both(transformers)
    assert came.shape == LATENTS.shape
    assert 3e-6 < relative(came, expected) < 1e-4
    norm = other.norm_out.norm
    assert norm.eps == 1e-5
    norm.eps = 1e-6  # SAT's; every other norm has one eps on both sides
    came, expected = _both(transformers)
    norm.eps = 1e-5
    assert relative(came, expected) <= 1e-6


def test_norms_have_the_eps_that_sat_really_uses(transformers: Any) -> None:
    own, _ = transformers
    layer = own.transformer.layers[0]
    assert layer.input_layernorm.eps == layer.post_attention_layernorm.eps == 1e-5
    assert own.transformer.final_layernorm.eps == 1e-5
    assert own.get_mixin("adaln_layer").query_layernorm_list[0].eps == 1e-6
    assert own.get_mixin("final_layer").norm_final.eps == 1e-6


def test_blocks_answer_hooks_in_diffusers_form(transformers: Any) -> None:
    own, other = transformers
    seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {"own": [], "other": []}
    blocks = own.get_mixin("adaln_layer").blocks
    handles = [
        block.register_forward_hook(lambda _m, _a, out, side=side: seen[side].append(out))
        for side, group in (("own", blocks), ("other", other.transformer_blocks))
        for block in group
    ]
    _both(transformers)
    for handle in handles:
        handle.remove()
    assert len(seen["own"]) == 2
    for came, expected in zip(seen["own"], seen["other"], strict=True):
        for part, expected_part in zip(came, expected, strict=True):
            assert relative(part, expected_part) <= 1e-6


def test_shorter_videos_take_the_head_of_the_tables(transformers: Any) -> None:
    own, _ = transformers
    with torch.no_grad():
        assert own(LATENTS[:, :1], TIMES, TEXT).shape == LATENTS[:, :1].shape
