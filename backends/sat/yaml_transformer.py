"""The `network_config` section of CogVideo's YAML configs: the diffusion transformer."""

from __future__ import annotations

from typing import cast

from backends.errors import Unsupported
from backends.sat.config import PositionKind, TransformerConfig
from backends.sat.sections import Section, only

_POSITIONS: dict[str, PositionKind] = {
    "dit_video_concat.Basic3DPositionEmbeddingMixin": "sin_cos",
    "dit_video_concat.Rotary3DPositionEmbeddingMixin": "rotary",
}


def read_transformer(section: Section) -> TransformerConfig:
    """The transformer that a `network_config` describes.

    Raises `CheckpointError` when it is incomplete, `Unsupported` when it is of another kind.
    """
    params = only(section, "dit_video_concat.DiffusionTransformer")
    if not isinstance(params.get("patch_size", object), int) or params.has("ofs_embed_dim"):
        raise Unsupported(
            "the config describes CogVideoX 1.5 (patches in time, or `ofs_embed_dim`); the `sat`"
            " backend renders the 1.0 text-to-video models, 2B and 5B"
        )
    in_channels, out_channels = params.positive("in_channels"), params.positive("out_channels")
    if in_channels != out_channels:
        raise Unsupported(
            f"the config describes an image-to-video model ({in_channels} channels in, {out_channels}"
            " out); the `sat` backend renders the text-to-video models, 2B and 5B"
        )
    args = params.section("transformer_args")
    args.require("layernorm_order", "pre", "pre")
    args.require("is_decoder", False, False)
    args.require("model_parallel_size", 1, 1)
    args.ignore("checkpoint_activations", "skip_init")
    modules = params.section("modules")
    if modules.has("lora_config"):
        raise Unsupported("the config adds LoRA weights; merge them into the checkpoint first")
    positions = modules.section("pos_embed_config")
    kind = positions.target(_POSITIONS)
    place = positions.section("params")
    place.require("rot_v", False, False)
    place.require("learnable_pos_embed", False, False)
    place.ignore("hidden_size_head")
    patch = only(modules.section("patch_embed_config"), "dit_video_concat.ImagePatchEmbeddingMixin")
    layers = only(modules.section("adaln_layer_config"), "dit_video_concat.AdaLNMixin")
    only(modules.section("final_layer_config"), "dit_video_concat.FinalLayerMixin").done()
    for flag in ("use_SwiGLU", "use_RMSNorm"):
        params.require(flag, False, False)
    params.require("num_classes", None, None)
    params.require("input_time", "adaln", "adaln")
    params.ignore("adm_in_channels", "dtype")
    hidden_size = params.positive("hidden_size")
    config = TransformerConfig(
        num_layers=params.positive("num_layers"),
        hidden_size=hidden_size,
        num_attention_heads=params.positive("num_attention_heads"),
        time_embed_dim=params.positive("time_embed_dim", hidden_size),
        in_channels=in_channels,
        out_channels=out_channels,
        patch_size=params.positive("patch_size"),
        num_frames=params.positive("num_frames"),
        time_compressed_rate=params.positive("time_compressed_rate"),
        latent_height=params.positive("latent_height"),
        latent_width=params.positive("latent_width"),
        text_length=place.positive("text_length"),
        text_hidden_size=patch.positive("text_hidden_size"),
        positions=kind,
        interpolation=cast(
            tuple[float, float, float],
            tuple(place.get(f"{a}_interpolation", float, 1.0) for a in ("time", "height", "width")),
        ),
        qk_norm=layers.get("qk_ln", bool, True),
        elementwise_affine=params.get("elementwise_affine", bool),
        layernorm_epsilon=args.get("layernorm_epsilon", float, 1e-5),
        vocab_size=args.positive("vocab_size"),
        max_sequence_length=args.positive("max_sequence_length"),
    )
    for part in (params, args, modules, place, patch, layers):
        part.done()
    return config
