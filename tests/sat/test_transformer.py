"""The transformers of the whole family against Diffusers' own, with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from small_sat import relative

TEXT = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(2))
TIMES = torch.tensor([999.0, 19.0])


def _latents(other: Any, seed: int = 1) -> torch.Tensor:
    """Of the model's full length: Diffusers cuts a learned embedding for no other."""
    frames = 5 if other.config.patch_size_t is None else 6
    return torch.randn(2, frames, 4, 4, 6, generator=torch.Generator().manual_seed(seed))


def _both(transformers: Any) -> tuple[torch.Tensor, torch.Tensor]:
    own, other = transformers
    latents, config = _latents(other), other.config
    image = _latents(other, seed=4)[:1] if config.in_channels > config.out_channels else None
    rotary = None
    if config.use_rotary_positional_embeddings:
        kind = {} if config.patch_size_t is None else {"grid_type": "slice", "max_size": (4, 5)}
        length = len(latents[0]) // (config.patch_size_t or 1)
        rotary = get_3d_rotary_pos_embed(
            32, ((0, 0), (2, 3)), grid_size=(2, 3), temporal_size=length, **kind
        )
    given = latents if image is None else torch.cat((latents, image.expand_as(latents)), dim=2)
    ofs = None if config.ofs_embed_dim is None else torch.full((1,), 2.0)
    with torch.no_grad():
        came = own(latents, TIMES, TEXT, image)
        expected = other(given, TEXT, TIMES, ofs=ofs, image_rotary_emb=rotary).sample
    return came, expected


def test_equals_diffusers_but_for_the_output_norm(transformers: Any) -> None:
    _, other = transformers
    came, expected = _both(transformers)
    assert came.shape == _latents(other).shape
    assert 1e-6 < relative(came, expected) < 1e-4
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
    own, other = transformers
    latents = _latents(other)[:, : other.config.patch_size_t or 1]
    image = None if other.config.in_channels == 4 else latents[:1]
    with torch.no_grad():
        assert own(latents, TIMES, TEXT, image).shape == latents.shape


@pytest.mark.parametrize("height", [4, 6])
@pytest.mark.parametrize("transformers", ["1.5", "1.5-i2v"], indirect=True)
def test_1_5_renders_every_size_of_its_table_and_text_of_any_length(
    transformers: Any, height: int
) -> None:
    own, other = transformers
    generator = torch.Generator().manual_seed(height)
    latents = torch.randn(1, 4, 4, height, 6, generator=generator)
    text = torch.randn(1, 7, 16, generator=generator)
    image = None if other.config.in_channels == 4 else torch.zeros_like(latents)
    with torch.no_grad():
        first = own(latents, TIMES[:1], text, image)
        again = own(latents, TIMES[:1], text, image)
    assert first.shape == latents.shape and torch.equal(first, again)
