"""The one table of settings that SAT's YAML and a Diffusers pipeline's JSON files both have.

What `mapping` is for tensors. A row names the field of `sat.config`'s classes, which have SAT's names,
Diffusers' key, and the section of SAT's YAML. Settings that need a computation are not in it: the sizes
of patches and heads, the VAE's widths, positions; `diffusers.config` and `sat.document` spell them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from backends.checkpoints.sat.config import PositionKind, SamplerKind
from backends.checkpoints.sections import Section

INDEX = "model_index.json"
TRANSFORMER = "transformer/config.json"
VAE = "vae/config.json"
SCHEDULER = "scheduler/scheduler_config.json"
CONFIG_FILES = (INDEX, TRANSFORMER, VAE, SCHEDULER)

SCHEDULERS: dict[str, SamplerKind] = {
    "CogVideoXDDIMScheduler": "ddim",
    "CogVideoXDPMScheduler": "dpm",
}
"""Diffusers' class of a solver."""

DIFFUSION = "sgm.modules.diffusionmodules"
SAMPLERS: dict[str, SamplerKind] = {
    f"{DIFFUSION}.sampling.VideoDDIMSampler": "ddim",
    f"{DIFFUSION}.sampling.VPSDEDPMPP2MSampler": "dpm",
}
"""SAT's class of a solver."""
GUIDERS = {f"{DIFFUSION}.guiders.VanillaCFG": False, f"{DIFFUSION}.guiders.DynamicCFG": True}
"""SAT's class of a guidance, and whether it is dynamic."""
POSITIONS: dict[str, PositionKind] = {
    "dit_video_concat.Basic3DPositionEmbeddingMixin": "sin_cos",
    "dit_video_concat.Rotary3DPositionEmbeddingMixin": "rotary",
}
"""SAT's class of a position embedding."""


class Setting(NamedTuple):
    """One setting: the `field` of a config class, Diffusers' `key` (None where its code fixes the
    value `fixed`), and SAT's `section` and key, which is `sat` if it is not the field's name.

    `default` is what SAT's class takes where the YAML is silent, `absent` what Diffusers' class
    takes; None: the key must be there.
    """

    field: str
    key: str | None
    kind: type[int] | type[float] | type[bool] = int
    section: str = ""
    sat: str | None = None
    default: Any = None
    absent: Any = None
    fixed: Any = None


Settings = tuple[Setting, ...]

TRANSFORMER_SETTINGS: Settings = (
    Setting("time_embed_dim", "time_embed_dim"),
    Setting("elementwise_affine", None, bool, fixed=True),
    Setting("num_frames", "sample_frames", absent=49),
    Setting("time_compressed_rate", "temporal_compression_ratio"),
    Setting("latent_width", "sample_width", absent=90),
    Setting("latent_height", "sample_height", absent=60),
    Setting("num_layers", "num_layers"),
    Setting("in_channels", "in_channels"),
    Setting("out_channels", "out_channels"),
    Setting("num_attention_heads", "num_attention_heads"),
    Setting("vocab_size", None, section="transformer_args", fixed=1),
    Setting("max_sequence_length", None, section="transformer_args", fixed=64),
    Setting("layernorm_epsilon", "norm_eps", float, "transformer_args", default=1e-5, absent=1e-5),
    Setting("text_length", "max_text_seq_length", section="pos_embed_config", absent=226),
    Setting("text_hidden_size", "text_embed_dim", section="patch_embed_config"),
    Setting("qk_norm", None, bool, "adaln_layer_config", "qk_ln", default=True, fixed=True),
)
VAE_SETTINGS: Settings = (
    Setting("z_channels", "latent_channels"),
    Setting("image_channels", "in_channels", sat="in_channels"),
    Setting("num_res_blocks", "layers_per_block"),
    Setting("temporal_compress_times", "temporal_compression_ratio", default=4, absent=4),
)
SCHEDULE_SETTINGS: Settings = (
    Setting("linear_start", "beta_start", float, default=0.00085, absent=0.00085),
    Setting("linear_end", "beta_end", float, default=0.0120, absent=0.0120),
    Setting("num_timesteps", "num_train_timesteps", default=1000, absent=1000),
    Setting("shift_scale", "snr_shift_scale", float, default=1.0, absent=3.0),
    Setting("keep_start", None, bool, default=False, fixed=False),
    Setting("post_shift", None, bool, default=False, fixed=False),
)

ABSENT: dict[str, dict[str, Any]] = {
    file: {row.key: row.absent for row in rows if row.key and row.absent is not None} | others
    for file, rows, others in (
        (TRANSFORMER, TRANSFORMER_SETTINGS, {
            "patch_size": 2, "spatial_interpolation_scale": 1.875,
            "temporal_interpolation_scale": 1.0, "use_rotary_positional_embeddings": False,
        }),
        (VAE, VAE_SETTINGS, {"scaling_factor": 1.15258426}),
        (SCHEDULER, SCHEDULE_SETTINGS, {}),
    )
}  # fmt: skip
"""What Diffusers' classes take for absent keys, besides those in `FIXED`."""


def from_diffusers(rows: Settings, values: Section) -> dict[str, Any]:
    """The fields that `rows` name, from a Diffusers file. Raises `CheckpointError`."""
    return {r.field: values.number(r.key, r.kind) if r.key else r.fixed for r in rows}


def to_diffusers(rows: Settings, config: object) -> dict[str, Any]:
    """What a Diffusers file says of the fields that `rows` name."""
    return {row.key: getattr(config, row.field) for row in rows if row.key}


def from_sat(rows: Settings, sections: Mapping[str, Section], **defaults: object) -> dict[str, Any]:
    """The fields that `rows` name, from the `sections` of a YAML by the names that rows have for them.

    `defaults` are those that depend on other fields. Raises `CheckpointError`.
    """
    return {
        row.field: sections[row.section].number(
            row.sat or row.field, row.kind, defaults.get(row.field, row.default)
        )
        for row in rows
    }


def to_sat(rows: Iterable[Setting], config: object, section: str = "") -> dict[str, Any]:
    """What `section` of SAT's YAML says of the fields of `config` that `rows` name."""
    return {r.sat or r.field: getattr(config, r.field) for r in rows if r.section == section}


Fixed = tuple[str, str, Any, Any]
"""File, key, the value that SAT's code fixes, and what Diffusers takes if the key is absent."""

FIXED: tuple[Fixed, ...] = (
    (TRANSFORMER, "activation_fn", "gelu-approximate", "gelu-approximate"),
    (TRANSFORMER, "attention_bias", True, True),
    (TRANSFORMER, "dropout", 0.0, 0.0),
    (TRANSFORMER, "flip_sin_to_cos", True, True),
    (TRANSFORMER, "freq_shift", 0, 0),
    (TRANSFORMER, "norm_elementwise_affine", True, True),
    (TRANSFORMER, "timestep_activation_fn", "silu", "silu"),
    (VAE, "act_fn", "silu", "silu"),
    (VAE, "latents_mean", None, None),
    (VAE, "latents_std", None, None),
    (VAE, "norm_eps", 1e-6, 1e-6),
    (VAE, "norm_num_groups", 32, 32),
    (VAE, "shift_factor", None, None),
    (VAE, "use_post_quant_conv", False, False),
    (VAE, "use_quant_conv", False, False),
    (SCHEDULER, "beta_schedule", "scaled_linear", "scaled_linear"),
    (SCHEDULER, "clip_sample", False, True),
    (SCHEDULER, "prediction_type", "v_prediction", "epsilon"),
    (SCHEDULER, "rescale_betas_zero_snr", True, False),
    (SCHEDULER, "set_alpha_to_one", True, True),
    (SCHEDULER, "steps_offset", 0, 0),
    (SCHEDULER, "timestep_spacing", "trailing", "leading"),
    (SCHEDULER, "trained_betas", None, None),
)


def fixed_keys(patch_size_t: int | None, takes_image: bool) -> tuple[Fixed, ...]:
    """`FIXED`, and what the kind of model fixes.

    Diffusers reads `patch_bias` for 1.0 only (1.5's linear patch embedding has a bias on both sides,
    though the published configurations say false), and `invert_scale_latents` for image-to-video
    only: there 1.0 multiplies an image's latents by the scaling factor, 1.5 by its inverse.
    """
    kind = "CogVideoXImageToVideoPipeline" if takes_image else "CogVideoXPipeline"
    rows: list[Fixed] = [(INDEX, "_class_name", kind, None)]
    if patch_size_t is None:
        rows.append((TRANSFORMER, "patch_bias", True, True))
    if patch_size_t is None or takes_image:
        rows.append((VAE, "invert_scale_latents", patch_size_t is not None, False))
    return (*rows, *FIXED)
