"""The `network_config` section of CogVideo's YAML configs: the diffusion transformer."""

from __future__ import annotations

from typing import cast

from backends.checkpoints.sat.config import PositionKind, TransformerConfig
from backends.checkpoints.sat.sections import Section, only
from backends.errors import CheckpointError, Unsupported

_POSITIONS: dict[str, PositionKind] = {
    "dit_video_concat.Basic3DPositionEmbeddingMixin": "sin_cos",
    "dit_video_concat.Rotary3DPositionEmbeddingMixin": "rotary",
}


def read_transformer(section: Section) -> TransformerConfig:
    """The transformer that a `network_config` describes.

    Raises `CheckpointError` when it is incomplete, `Unsupported` when it is of another kind.
    """
    params = only(section, "dit_video_concat.DiffusionTransformer")
    patch_size_t, patch_size = _patch_size(params)
    in_channels, out_channels = params.positive("in_channels"), params.positive("out_channels")
    if in_channels not in (out_channels, 2 * out_channels):
        raise Unsupported(
            f"the config describes a model with {in_channels} channels in and {out_channels} out; the"
            " `sat` backend renders text-to-video models, with as many in as out, and image-to-video"
            " models, with twice as many"
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
    place.ignore("hidden_size_head")
    learned = place.get("learnable_pos_embed", bool, False)
    ofs_embed_dim = params.positive("ofs_embed_dim") if params.has("ofs_embed_dim") else None
    _check_version(patch_size_t, kind, learned, ofs_embed_dim)
    patch = only(modules.section("patch_embed_config"), "dit_video_concat.ImagePatchEmbeddingMixin")
    layers = only(modules.section("adaln_layer_config"), "dit_video_concat.AdaLNMixin")
    only(modules.section("final_layer_config"), "dit_video_concat.FinalLayerMixin").done()
    for flag in ("use_SwiGLU", "use_RMSNorm"):
        params.require(flag, False, False)
    params.require("num_classes", None, None)
    params.require("input_time", "adaln", "adaln")
    params.ignore("adm_in_channels", "dtype", "ofs_embed_dim")
    hidden_size, heads = params.positive("hidden_size"), params.positive("num_attention_heads")
    if hidden_size % heads:
        raise CheckpointError(
            f"{params.where}: hidden_size {hidden_size} is no multiple of num_attention_heads {heads};"
            " correct the file"
        )
    config = TransformerConfig(
        num_layers=params.positive("num_layers"),
        hidden_size=hidden_size,
        num_attention_heads=heads,
        time_embed_dim=params.positive("time_embed_dim", hidden_size),
        in_channels=in_channels,
        out_channels=out_channels,
        patch_size=patch_size,
        num_frames=params.positive("num_frames"),
        time_compressed_rate=params.positive("time_compressed_rate"),
        latent_height=params.positive("latent_height"),
        latent_width=params.positive("latent_width"),
        text_length=place.positive("text_length"),
        text_hidden_size=patch.positive("text_hidden_size"),
        positions=kind,
        interpolation=cast(
            tuple[float, float, float],
            tuple(
                place.positive_real(f"{a}_interpolation", 1.0) for a in ("time", "height", "width")
            ),
        ),
        qk_norm=layers.get("qk_ln", bool, True),
        elementwise_affine=params.get("elementwise_affine", bool),
        layernorm_epsilon=args.positive_real("layernorm_epsilon", 1e-5),
        vocab_size=args.positive("vocab_size"),
        max_sequence_length=args.positive("max_sequence_length"),
        patch_size_t=patch_size_t,
        ofs_embed_dim=ofs_embed_dim,
        learned_positions=learned,
    )
    for part in (params, args, modules, place, patch, layers):
        part.done()
    return config


def _patch_size(params: Section) -> tuple[int | None, int]:
    """Size along time, None for 1.0's 2-D patches, and along height and width."""
    value = params.get("patch_size", object)
    if isinstance(value, int):
        return None, params.positive("patch_size")
    sizes = cast(list[object], params.get("patch_size", list))
    match sizes:
        case [int(time), int(height), int(width)] if height == width and min(time, height) > 0:
            return time, height
        case _:
            raise Unsupported(
                f"patch_size is {sizes}; the `sat` backend renders square patches, such as [2, 2, 2]"
            )


def _check_version(
    patch_size_t: int | None, kind: PositionKind, learned: bool, ofs_embed_dim: int | None
) -> None:
    """Refuse mixtures of CogVideoX 1.0 and 1.5, for which neither code base has a model."""
    if patch_size_t is not None and (kind != "rotary" or learned):
        raise Unsupported(
            "the config has patches in time, as CogVideoX 1.5 has, but not its rotary positions alone"
        )
    if learned and kind != "rotary":
        raise Unsupported("learnable_pos_embed is supported beside rotary positions only")
    if ofs_embed_dim is not None and patch_size_t is None:
        raise Unsupported(
            "the config has ofs_embed_dim, as CogVideoX 1.5 has, but a patch_size of 1.0; CogVideo's"
            " main branch takes a list there, such as [2, 2, 2]"
        )
