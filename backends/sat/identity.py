"""What must be equal exactly when two places run the same model: read off an opened SAT engine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from backends.base import Identity, Policies
from backends.checkpoints.diffusers.config import write_configs
from backends.checkpoints.mapping import transformer_table, vae_table
from backends.checkpoints.sat.checkpoint import OPTIONAL_TRANSFORMER_KEYS
from backends.checkpoints.tensors import weight_digest
from backends.sat.lora import sat_lora_settings, split_lora
from backends.sat.opened import OpenedModel

_POSITIONS = "mixins.pos_embed.pos_embedding"
_NO_WORD = frozenset(
    {
        "vae.sample_height", "vae.sample_width", "vae.force_upcast",
        "scheduler.clip_sample_range", "scheduler.sample_max_value",
    }
)  # fmt: skip
"""Settings that Diffusers' files need and SAT has nothing like: tiles, an upcast, clipping."""


def read_identity(engine: OpenedModel) -> Identity:
    """Digests of all weights under canonical names, dtypes, and every deciding setting.

    The sin-cos table counts as a weight, because Diffusers has it as a buffer; a learned embedding
    is one. SAT's rotary tables and its unused position embedding have no counterpart there and are
    left out.
    """
    weights: dict[str, str] = {}
    for component, tensors in _canonical_weights(engine):
        weights |= {f"{component}.{name}": weight_digest(tensors[name]) for name in tensors}
    dtypes = {
        component: ", ".join(
            sorted({str(p.dtype).removeprefix("torch.") for p in module.parameters()})
        )
        for component, module in _components(engine).items()
    }
    return Identity(dict(sorted(weights.items())), dtypes, dict(_settings(engine)))


def _components(engine: OpenedModel) -> dict[str, nn.Module]:
    return {
        "transformer": engine.diffusion_model,
        "vae": engine.first_stage_model,
        "text_encoder": engine.conditioner.encoder,
    }


def _canonical_weights(engine: OpenedModel) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    state, lora = split_lora(engine.diffusion_model.state_dict(), engine.config.transformer)
    yield "transformer", lora
    config = engine.config.transformer
    positions = state.pop(_POSITIONS, None) if config.positions == "sin_cos" else None
    for name in OPTIONAL_TRANSFORMER_KEYS:
        state.pop(name, None)
    yield "transformer", transformer_table(config).to_diffusers(state)
    if positions is not None:
        yield "transformer", {"patch_embed.pos_embedding": positions}
    vae = engine.first_stage_model.state_dict()
    yield "vae", vae_table(engine.config.vae).to_diffusers(vae)
    yield "text_encoder", dict(engine.conditioner.encoder.named_parameters())


def _settings(engine: OpenedModel) -> Iterator[tuple[str, Any]]:
    """The settings under Diffusers' names; `write_configs` translates them."""
    for path, text in write_configs(engine.config, None, "T5Tokenizer").items():
        component = path.partition("/")[0]
        if component in ("transformer", "vae", "scheduler"):
            for key, value in json.loads(text).items():
                if not key.startswith("_") and f"{component}.{key}" not in _NO_WORD:
                    yield f"{component}.{key}", value
    text = engine.conditioner.encoder.config
    for key in ("d_model", "d_ff", "d_kv", "num_layers", "num_heads", "feed_forward_proj"):
        yield f"text_encoder.{key}", getattr(text, key)
    yield "text.max_sequence_length", engine.config.text.max_length
    yield "placement.execution_device", engine.device.type
    yield from sat_lora_settings(
        engine.diffusion_model, engine.config.transformer, getattr(engine, "fused_lora", None)
    ).items()


def read_policies(engine: OpenedModel, lone_first_frame: bool) -> Policies:
    """What SAT does when left to itself.

    Sources: `discretizer.py` (`ZeroSNRDDPMDiscretization.get_sigmas`), `sample_video.py`
    (`force_uc_zero_embeddings`; `save_video_as_grid_and_mp4` truncates), `sampling.py` and
    `guiders.py` (float32 state, guidance after the denoiser), `dit_video_concat.py`
    (`FinalLayerMixin`: eps 1e-6. The block norms' 1e-6 written there has no effect: SAT's
    `BaseTransformerLayer` passes its own eps, 1e-5, which is Diffusers' too), and for 1.5
    `diffusion_video.py` with `vae_modules/autoencoder.py` (`decode` sets `use_cp` to False in one
    process).
    """
    four = engine.config.transformer.patch_size_t is not None and not lone_first_frame
    return Policies(
        schedule="pick the timesteps, then rescale those to zero terminal SNR",
        unconditional="zeros",
        latent_dtype="float32",
        guidance_target="clean sample",
        layer_norm_eps=1e-6,
        frames_to_uint8="truncate",
        image_scale=engine.config.image_scale,
        first_latent_frames=engine.config.transformer.time_compressed_rate if four else 1,
    )


def canonical_modules(engine: OpenedModel) -> dict[str, nn.Module]:
    """Canonical (Diffusers) names of SAT's modules that take and give what their namesakes do.

    Left out are those that a namesake splits or joins differently: query/key/value, the attention
    as a whole, and modulations. Convolutions of the VAE are the plain ones inside (`....conv`).
    """
    found: dict[str, nn.Module] = {}
    config = engine.config
    for component, module, table in (
        ("transformer", engine.diffusion_model, transformer_table(config.transformer)),
        ("vae", engine.first_stage_model, vae_table(config.vae)),
    ):
        found[component] = module
        for rule in table.rules:
            if len(rule.diffusers) == 1 and rule.sat.endswith(".weight"):
                name = rule.diffusers[0].removesuffix(".weight")
                found[f"{component}.{name}"] = module.get_submodule(
                    rule.sat.removesuffix(".weight")
                )
    for i, block in enumerate(engine.blocks):
        name = f"transformer.transformer_blocks.{i}"
        found[name] = block
        found[f"{name}.ff"] = engine.diffusion_model.get_submodule(f"transformer.layers.{i}.mlp")
    for name, module in engine.conditioner.encoder.named_modules():
        found[f"text_encoder.{name}" if name else "text_encoder"] = module
    for side in ("encoder", "decoder"):
        found[f"vae.{side}"] = engine.first_stage_model.get_submodule(side)
    return found
