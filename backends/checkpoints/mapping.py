"""The mapping between SAT's and Diffusers' CogVideoX tensors, 1.0 and 1.5, as data.

Facts: SAT's names and chunk orders from THUDM/CogVideo (tag v1.0, main branch for 1.5),
`sat/dit_video_concat.py` and `sat/vae_modules/cp_enc_dec.py`; Diffusers' from
`CogVideoXTransformer3DModel`, `CogVideoXLayerNormZero` and `AutoencoderKLCogVideoX`. The final layer
needs no swap: both sides take shift before scale there. 1.5's linear patch embedding and output keep
their shape, because both sides order a patch by channel, time, row, column. SAT counts the decoder's
levels from the output, Diffusers from the input. T5 has the same names on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from torch import Tensor

from backends.checkpoints.rules import WHOLE, Layout, Rule, Table
from backends.checkpoints.sat.config import ModelConfig, TransformerConfig, VaeConfig
from backends.checkpoints.tensors import LazyTensors

MappedComponent = Literal["transformer", "vae"]

_PARAMETERS = ("weight", "bias")

QKV = Layout(((0,), (1,), (2,)))
"""SAT keeps query, key and value in one projection."""

MODULATION = Layout(((0, 1, 2, 6, 7, 8), (3, 4, 5, 9, 10, 11)))
"""SAT has one projection to (shift, scale, gate) of attention then MLP, for the video then the
text; Diffusers has one for attention and one for the MLP, each for the video then the text."""

_TRANSFORMER = (
    Rule("mixins.patch_embed.proj.{p}", ("patch_embed.proj.{p}",)),
    Rule("mixins.patch_embed.text_proj.{p}", ("patch_embed.text_proj.{p}",)),
    Rule("time_embed.0.{p}", ("time_embedding.linear_1.{p}",)),
    Rule("time_embed.2.{p}", ("time_embedding.linear_2.{p}",)),
    Rule("transformer.final_layernorm.{p}", ("norm_final.{p}",)),
    Rule("mixins.final_layer.norm_final.{p}", ("norm_out.norm.{p}",)),
    Rule("mixins.final_layer.adaLN_modulation.1.{p}", ("norm_out.linear.{p}",)),
    Rule("mixins.final_layer.linear.{p}", ("proj_out.{p}",)),
)

_LEARNED_POSITIONS = Rule("mixins.pos_embed.pos_embedding", ("patch_embed.pos_embedding",))
"""Image-to-video 1.0. A sin-cos table has the same name in SAT but is not stored by Diffusers."""

_OFS = (
    Rule("ofs_embed.0.{p}", ("ofs_embedding.linear_1.{p}",)),
    Rule("ofs_embed.2.{p}", ("ofs_embedding.linear_2.{p}",)),
)
"""Image-to-video 1.5."""

_BLOCK = tuple(
    Rule(f"{sat}.{{p}}", tuple(f"transformer_blocks.{{i}}.{part}.{{p}}" for part in parts), layout)
    for sat, parts, layout in (
        ("transformer.layers.{i}.input_layernorm", ("norm1.norm",), WHOLE),
        ("transformer.layers.{i}.post_attention_layernorm", ("norm2.norm",), WHOLE),
        (
            "transformer.layers.{i}.attention.query_key_value",
            ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
            QKV,
        ),
        ("transformer.layers.{i}.attention.dense", ("attn1.to_out.0",), WHOLE),
        ("transformer.layers.{i}.mlp.dense_h_to_4h", ("ff.net.0.proj",), WHOLE),
        ("transformer.layers.{i}.mlp.dense_4h_to_h", ("ff.net.2",), WHOLE),
        (
            "mixins.adaln_layer.adaLN_modulations.{i}.1",
            ("norm1.linear", "norm2.linear"),
            MODULATION,
        ),
        ("mixins.adaln_layer.query_layernorm_list.{i}", ("attn1.norm_q",), WHOLE),
        ("mixins.adaln_layer.key_layernorm_list.{i}", ("attn1.norm_k",), WHOLE),
    )
)

_SPATIAL_NORM = ("norm_layer", "conv_y.conv", "conv_b.conv")
_ENCODER_RESNET = ("norm1", "norm2", "conv1.conv", "conv2.conv")
_DECODER_RESNET = (
    *(f"{norm}.{part}" for norm in ("norm1", "norm2") for part in _SPATIAL_NORM),
    "conv1.conv",
    "conv2.conv",
)
_ENCODER_ENDS = ("conv_in.conv", "norm_out", "conv_out.conv")
_DECODER_ENDS = ("conv_in.conv", *(f"norm_out.{part}" for part in _SPATIAL_NORM), "conv_out.conv")


_BLOCK_NUMBER = re.compile(r"(?:transformer\.layers|mixins\.adaln_layer\.\w+)\.(\d+)\.")
_LEVEL_NUMBER = re.compile(r"decoder\.up\.(\d+)\.block\.(\d+)\.")


def transformer_table(config: TransformerConfig) -> Table:
    """The rules of a transformer; names as in SAT's `DiffusionTransformer.state_dict()`."""
    ends = (*_TRANSFORMER, *(_OFS if config.ofs_embed_dim is not None else ()))
    rules = [
        *(filled for rule in ends for filled in rule.over(p=_PARAMETERS)),
        *((_LEARNED_POSITIONS,) if config.learned_positions else ()),
        *(
            filled
            for rule in _BLOCK
            for filled in rule.over(i=range(config.num_layers), p=_PARAMETERS)
        ),
    ]
    return Table("transformer", tuple(rules))


def vae_table(config: VaeConfig) -> Table:
    """The rules of a VAE; names as in SAT's `VideoAutoencoderInferenceWrapper.state_dict()`."""
    levels = len(config.ch_mult)
    depth = config.num_res_blocks
    widths = [config.ch * multiplier for multiplier in config.ch_mult]
    names = [
        *_pairs("encoder", "encoder", _ENCODER_ENDS),
        *_pairs("decoder", "decoder", _DECODER_ENDS),
    ]
    for side, leaves in (("encoder", _ENCODER_RESNET), ("decoder", _DECODER_RESNET)):
        for n in (0, 1):
            names += _pairs(f"{side}.mid.block_{n + 1}", f"{side}.mid_block.resnets.{n}", leaves)
    for level in range(levels):
        down = (f"encoder.down.{level}", f"encoder.down_blocks.{level}")
        before = widths[max(level - 1, 0)]
        names += _resnets(down, depth, _ENCODER_RESNET, before != widths[level])
        up = (f"decoder.up.{level}", f"decoder.up_blocks.{levels - 1 - level}")
        before = widths[min(level + 1, levels - 1)]
        names += _resnets(up, depth + 1, _DECODER_RESNET, before != widths[level])
        if level < levels - 1:
            names.append((f"{down[0]}.downsample.conv", f"{down[1]}.downsamplers.0.conv"))
        if level > 0:
            names.append((f"{up[0]}.upsample.conv", f"{up[1]}.upsamplers.0.conv"))
    rules = (
        Rule(f"{sat}.{{p}}", (f"{diffusers}.{{p}}",)).over(p=_PARAMETERS)
        for sat, diffusers in names
    )
    return Table("vae", tuple(rule for group in rules for rule in group))


def known_rules(component: str, names: Iterable[str]) -> dict[str, Rule]:
    """The rules that know some of these SAT tensor names, by name; no configuration is needed.

    The numbers of blocks and levels are read off the names. Names in Diffusers' form have no rule.
    """
    given = set(names)
    rules: Iterable[Rule] = ()
    if component == "transformer":
        blocks = [int(found[1]) for name in given if (found := _BLOCK_NUMBER.match(name))]
        numbers = range(max(blocks, default=-1) + 1)
        rules = [
            *(filled for rule in _TRANSFORMER for filled in rule.over(p=_PARAMETERS)),
            *(filled for rule in _BLOCK for filled in rule.over(i=numbers, p=_PARAMETERS)),
        ]
    elif component == "vae":
        levels = [int(found[1]) for name in given if (found := _LEVEL_NUMBER.match(name))]
        depths = [int(found[2]) for name in given if (found := _LEVEL_NUMBER.match(name))]
        # Widths that all differ give every level the shortcut that a change of width brings.
        widths = tuple(range(1, max(levels, default=-1) + 2))
        depth = max(depths, default=0)
        rules = vae_table(VaeConfig(1, widths, depth, 1, 1, 4)).rules if levels else ()
    return {rule.sat: rule for rule in rules if rule.sat in given}


def to_canonical(
    component: MappedComponent, tensors: Mapping[str, Tensor], config: ModelConfig
) -> LazyTensors:
    """The `state_dict()` of `component` of the SAT model of `config`, under Diffusers' names and
    layouts.

    `tensors` holds exactly what the rules know: leave out SAT's position tables and the other
    tensors of `one_sided`. Raises `CheckpointError` listing names that do not match.
    """
    if component == "vae":
        return vae_table(config.vae).to_diffusers(tensors)
    return transformer_table(config.transformer).to_diffusers(tensors)


def _pairs(sat: str, diffusers: str, leaves: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(f"{sat}.{leaf}", f"{diffusers}.{leaf}") for leaf in leaves]


def _resnets(
    place: tuple[str, str], count: int, leaves: tuple[str, ...], widens: bool
) -> list[tuple[str, str]]:
    """Residual blocks at `place` (SAT, Diffusers); a change of width gives the first a shortcut."""
    sat, diffusers = place
    names = [
        pair
        for n in range(count)
        for pair in _pairs(f"{sat}.block.{n}", f"{diffusers}.resnets.{n}", leaves)
    ]
    if widens:
        names.append((f"{sat}.block.0.nin_shortcut", f"{diffusers}.resnets.0.conv_shortcut"))
    return names
