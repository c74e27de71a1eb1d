"""The mapping against both code bases' own names and shapes, at the sizes of the real 2B and 5B.

`golden_sat_names.json` was read off CogVideo's own modules (tag v1.0, its cogvideox_{2b,5b}.yaml,
built with two layers of real width); `{i}` stands for the number of a layer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from torch import Tensor

from backends.checkpoints.mapping import transformer_table, vae_table
from backends.checkpoints.one_sided import one_sided
from backends.checkpoints.sat.config import TransformerConfig, VaeConfig
from backends.checkpoints.tensors import digest
from backends.errors import CheckpointError

GOLDEN: dict[str, dict[str, list[int]]] = json.loads(
    (Path(__file__).parent / "golden_sat_names.json").read_text()
)
VAE = VaeConfig(128, (1, 2, 2, 4), 3, 16, 3, 4)
LAYERS = {"2b": 30, "5b": 42}


def transformer_config(name: str, **changes: Any) -> TransformerConfig:
    """As CogVideo's cogvideox_2b.yaml and cogvideox_5b.yaml say."""
    rotary = name == "5b"
    settings: dict[str, Any] = {
        "num_layers": LAYERS[name],
        "hidden_size": 3072 if rotary else 1920,
        "num_attention_heads": 48 if rotary else 30,
        "time_embed_dim": 512,
        "in_channels": 16,
        "out_channels": 16,
        "patch_size": 2,
        "num_frames": 49,
        "time_compressed_rate": 4,
        "latent_height": 60,
        "latent_width": 90,
        "text_length": 226,
        "text_hidden_size": 4096,
        "positions": "rotary" if rotary else "sin_cos",
        "interpolation": (1.0, 1.0, 1.0) if rotary else (1.0, 1.875, 1.875),
        "qk_norm": True,
        "elementwise_affine": True,
        "layernorm_epsilon": 1e-5,
        "vocab_size": 1,
        "max_sequence_length": 64,
    }
    return TransformerConfig(**(settings | changes))


def shapes(tensors: Any) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def golden_transformer(name: str) -> dict[str, list[int]]:
    """The golden names of all layers, without the tensors that only SAT stores."""
    alone = {extra.name for extra in one_sided(transformer_config(name))}
    assert alone <= set(GOLDEN[name])
    return {
        full: shape
        for template, shape in GOLDEN[name].items()
        if template not in alone
        for full in {template.replace("{i}", str(i)) for i in range(LAYERS[name])}
    }


@pytest.mark.parametrize("name", ["2b", "5b"])
def test_real_transformers_have_the_names_and_shapes_of_both_code_bases(name: str) -> None:
    config = transformer_config(name)
    with torch.device("meta"):
        model = CogVideoXTransformer3DModel(
            num_attention_heads=config.num_attention_heads,
            num_layers=config.num_layers,
            use_rotary_positional_embeddings=name == "5b",
        )
    table = transformer_table(config)
    state = model.state_dict()
    sat = table.to_sat(state)
    assert shapes(sat) == golden_transformer(name)
    assert shapes(table.to_diffusers(dict(sat))) == shapes(state)


def test_the_real_vae_has_the_names_and_shapes_of_both_code_bases() -> None:
    with torch.device("meta"):
        state = AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
        ).state_dict()
    sat = vae_table(VAE).to_sat(state)
    assert shapes(sat) == GOLDEN["vae"]
    assert shapes(vae_table(VAE).to_diffusers(dict(sat))) == shapes(state)


def test_decoder_levels_are_counted_from_opposite_ends() -> None:
    rules = {rule.sat: rule.diffusers[0] for rule in vae_table(VAE).rules}
    assert rules["decoder.up.0.block.0.conv1.conv.weight"].startswith("decoder.up_blocks.3.")
    assert rules["decoder.up.3.upsample.conv.bias"].startswith("decoder.up_blocks.0.")
    assert rules["encoder.down.0.downsample.conv.bias"].startswith("encoder.down_blocks.0.")


@pytest.mark.parametrize("name", ["2b", "5b"])
def test_position_tables_have_the_shapes_that_upstream_stores(name: str) -> None:
    tables = {
        extra.name: list(extra.value().shape) for extra in one_sided(transformer_config(name))
    }
    assert tables == {table: GOLDEN[name][table] for table in tables}


def test_the_sin_cos_table_is_the_one_that_diffusers_computes() -> None:
    config = transformer_config("2b", hidden_size=64, num_attention_heads=2, num_frames=17)
    with torch.device("cpu"):
        model = CogVideoXTransformer3DModel(
            num_attention_heads=2, attention_head_dim=32, num_layers=1, sample_frames=17
        )
    (table,) = one_sided(config)
    torch.testing.assert_close(
        table.value(), model.patch_embed.pos_embedding.float(), rtol=0, atol=1e-6
    )


def test_the_rotary_table_is_the_one_that_diffusers_computes() -> None:
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    config = transformer_config("5b", num_frames=17)
    cos, sin = get_3d_rotary_pos_embed(64, ((0, 0), (30, 45)), (30, 45), 5)
    tables = {extra.name.rsplit(".", 1)[1]: extra.value for extra in one_sided(config)}
    torch.testing.assert_close(tables["freqs_cos"](), cos, rtol=0, atol=1e-6)
    torch.testing.assert_close(tables["freqs_sin"](), sin, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_stored_tables_are_checked_and_a_foreign_one_is_refused(dtype: torch.dtype) -> None:
    (table,) = one_sided(transformer_config("2b", hidden_size=64, num_frames=9))
    stored = table.value().to(dtype)
    assert table.check(stored, "here").action == "dropped"

    def refused(tensor: Tensor) -> str:
        with pytest.raises(CheckpointError) as caught:
            table.check(tensor, "here")
        return str(caught.value)

    assert "values up to" in refused(stored + 0.05)
    assert "expected (1, 4276, 64)" in refused(stored[:, :-1])


def test_tables_are_bit_equal_to_the_sat_backends() -> None:
    positions = pytest.importorskip("backends.sat.positions")
    for name in ("2b", "5b"):
        config = transformer_config(name, num_frames=9, latent_height=12, latent_width=20)
        grid = positions.Grid(3, 6, 10)
        tables = {extra.name: extra.value for extra in one_sided(config)}
        if name == "2b":
            built = positions.sin_cos_table(config.hidden_size, grid, config.interpolation)
            ours = tables["mixins.pos_embed.pos_embedding"]()[0, config.text_length :]
            assert digest(ours) == digest(torch.from_numpy(built).float())
        else:
            angles = positions.rotary_angles(config.head_size, grid).flatten(0, 2)
            assert digest(tables["mixins.pos_embed.freqs_sin"]()) == digest(angles.sin())
            assert digest(tables["mixins.pos_embed.freqs_cos"]()) == digest(angles.cos())
