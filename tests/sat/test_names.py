"""Parameter names equal those of the released SAT checkpoints.

The list is written from `DiffusionTransformer.state_dict()` of CogVideo v1.0 for
`configs/cogvideox_2b.yaml`, `cogvideox_5b.yaml` and `cogvideox_5b_i2v.yaml`, and of its main branch
for `cogvideox1.5_5b.yaml` and `cogvideox1.5_5b_i2v.yaml`; layers are numbered.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from small_sat import IMAGE, PATCHED_IMAGE, PATCHED_IN_TIME, ROTARY, SIN_COS, VAE

from backends.checkpoints.sat.config import TransformerConfig
from backends.sat.transformer import DiffusionTransformer
from backends.sat.vae import VideoAutoencoder

LAYER = [
    "transformer.layers.{i}.input_layernorm.{p}",
    "transformer.layers.{i}.attention.query_key_value.{p}",
    "transformer.layers.{i}.attention.dense.{p}",
    "transformer.layers.{i}.post_attention_layernorm.{p}",
    "transformer.layers.{i}.mlp.dense_h_to_4h.{p}",
    "transformer.layers.{i}.mlp.dense_4h_to_h.{p}",
    "mixins.adaln_layer.adaLN_modulations.{i}.1.{p}",
    "mixins.adaln_layer.query_layernorm_list.{i}.{p}",
    "mixins.adaln_layer.key_layernorm_list.{i}.{p}",
]
AROUND = [
    "time_embed.0.{p}",
    "time_embed.2.{p}",
    "mixins.patch_embed.proj.{p}",
    "mixins.patch_embed.text_proj.{p}",
    "mixins.final_layer.norm_final.{p}",
    "mixins.final_layer.linear.{p}",
    "mixins.final_layer.adaLN_modulation.1.{p}",
    "transformer.final_layernorm.{p}",
]
ONLY_2B = {"mixins.pos_embed.pos_embedding"}
ONLY_5B = {
    "mixins.pos_embed.freqs_sin",
    "mixins.pos_embed.freqs_cos",
    "transformer.position_embeddings.weight",
}
BLOCK = ["norm1", "conv1.conv", "norm2", "conv2.conv"]
GUIDED = ["norm_layer", "conv_y.conv", "conv_b.conv"]


def _shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("cpu"):
        state = DiffusionTransformer(config, torch.float32).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _expected(layers: int) -> set[str]:
    names = AROUND + [name.replace("{i}", str(i)) for i in range(layers) for name in LAYER]
    return {name.replace("{p}", p) for name in names for p in ("weight", "bias")}


def test_2b_names_and_layer_count() -> None:
    shapes = _shapes(replace(SIN_COS, num_layers=30))
    assert set(shapes) == _expected(30) | ONLY_2B
    assert len(shapes) == 2 * (30 * 9 + 8) + 1
    assert shapes["mixins.patch_embed.proj.weight"] == (64, 4, 2, 2)
    assert shapes["transformer.layers.29.attention.query_key_value.weight"] == (192, 64)
    assert shapes["mixins.adaln_layer.adaLN_modulations.29.1.weight"] == (12 * 64, 48)
    assert shapes["mixins.adaln_layer.query_layernorm_list.0.weight"] == (32,)
    assert shapes["mixins.pos_embed.pos_embedding"] == (1, 5 + 5 * 2 * 3, 64)


def test_5b_names_and_layer_count() -> None:
    shapes = _shapes(replace(ROTARY, num_layers=42))
    assert set(shapes) == _expected(42) | ONLY_5B
    assert shapes["mixins.pos_embed.freqs_sin"] == (5 * 2 * 3, 32)
    assert shapes["transformer.position_embeddings.weight"] == (64, 64)


def test_image_to_video_adds_a_learned_embedding_beside_the_rotary_one() -> None:
    shapes = _shapes(IMAGE)
    assert set(shapes) == _expected(2) | ONLY_5B | ONLY_2B
    assert shapes["mixins.pos_embed.pos_embedding"] == (1, 5 + 5 * 2 * 3, 64)
    assert shapes["mixins.patch_embed.proj.weight"] == (64, 8, 2, 2)
    assert shapes["mixins.final_layer.linear.weight"] == (4 * 2 * 2, 64)


def test_1_5_names() -> None:
    unread = {"transformer.position_embeddings.weight"}
    shapes = _shapes(PATCHED_IN_TIME)
    assert set(shapes) == _expected(2) | unread
    assert shapes["mixins.patch_embed.proj.weight"] == (64, 4 * 2 * 2 * 2)
    assert shapes["mixins.final_layer.linear.weight"] == (4 * 2 * 2 * 2, 64)
    with_image = _shapes(PATCHED_IMAGE)
    ofs = {f"ofs_embed.{i}.{p}" for i in (0, 2) for p in ("weight", "bias")}
    assert set(with_image) == _expected(2) | unread | ofs
    assert with_image["mixins.patch_embed.proj.weight"] == (64, 8 * 2 * 2 * 2)


def test_vae_names() -> None:
    names = {name.rpartition(".")[0] for name in VideoAutoencoder(VAE).state_dict()}
    guided = [f"{norm}.{part}" for norm in ("norm1", "norm2") for part in GUIDED]
    decoder_block = [*guided, "conv1.conv", "conv2.conv"]
    encoder = {f"encoder.{n}" for n in ("conv_in.conv", "norm_out", "conv_out.conv")}
    encoder |= {f"encoder.mid.block_{n}.{part}" for n in (1, 2) for part in BLOCK}
    encoder |= {f"encoder.down.{level}.block.0.{part}" for level in range(3) for part in BLOCK}
    encoder |= {f"encoder.down.{level}.downsample.conv" for level in (0, 1)}
    encoder |= {"encoder.down.2.block.0.nin_shortcut"}
    decoder = {f"decoder.{n}" for n in ("conv_in.conv", "conv_out.conv")}
    decoder |= {f"decoder.norm_out.{part}" for part in GUIDED}
    decoder |= {f"decoder.mid.block_{n}.{part}" for n in (1, 2) for part in decoder_block}
    decoder |= {
        f"decoder.up.{level}.block.{n}.{part}"
        for level in range(3)
        for n in (0, 1)
        for part in decoder_block
    }
    decoder |= {f"decoder.up.{level}.upsample.conv" for level in (1, 2)}
    decoder |= {"decoder.up.1.block.0.nin_shortcut"}
    assert names == encoder | decoder
