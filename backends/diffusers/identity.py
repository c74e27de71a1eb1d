"""What must be equal exactly when two places run the same CogVideoX: read off an opened pipeline."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from backends.base import Identity, Policies, Table
from backends.checkpoints.tensors import dtype_name, weight_digest
from backends.diffusers.acceleration import as_multiplied
from backends.diffusers.conditioning import own_image_scale
from backends.diffusers.placement import COMPONENTS, tensors_in_use
from backends.stages.trace import sketch


class TensorNames:
    """The names of every parameter and buffer, taken before offloading can untie or move them."""

    def __init__(self, pipe: Any) -> None:
        self._names: dict[str, frozenset[str]] = {}
        for component in COMPONENTS:
            module: nn.Module = getattr(pipe, component)
            named = [*module.named_parameters(), *module.named_buffers()]
            self._names[component] = frozenset(name for name, _ in named)

    def of(self, component: str) -> frozenset[str]:
        """Names within `component`."""
        return self._names[component]


def read_identity(pipe: Any, names: TensorNames, placement: Mapping[str, str]) -> Identity:
    """Digests of all weights as a forward would use them, dtypes, and every deciding setting.

    Buffers count as weights: a 2B transformer's `patch_embed.pos_embedding` is made from its config,
    not loaded. `placement` adds where the weights live and where they are computed with.
    """
    weights: dict[str, str] = {}
    dtypes: dict[str, str] = {}
    tables: dict[str, Table] = {}
    for component in COMPONENTS:
        module: nn.Module = getattr(pipe, component)
        found: set[str] = set()
        for name, tensor in tensors_in_use(module, names.of(component)):
            if isinstance(tensor, nn.Parameter):
                found.add(str(tensor.dtype).removeprefix("torch."))
            else:
                # Diffusers keeps position tables in float64 and casts them where they are added.
                tensor = tensor.to(pipe.transformer.dtype)
                tables[f"{component}.{name}"] = _table(tensor)
            weights[f"{component}.{name}"] = weight_digest(as_multiplied(tensor))
        dtypes[component] = ", ".join(sorted(found))
    configs = dict(_settings(pipe)) | {f"placement.{k}": v for k, v in placement.items()}
    return Identity(dict(sorted(weights.items())), dtypes, configs, tables)


def _table(tensor: Tensor) -> Table:
    return Table(dtype_name(tensor), list(tensor.shape), sketch(tensor).tolist())


def _settings(pipe: Any) -> Iterator[tuple[str, Any]]:
    for component in ("transformer", "vae", "scheduler"):
        for key, value in getattr(pipe, component).config.items():
            if not key.startswith("_"):
                # As JSON would bring them back: tuples become lists.
                yield f"{component}.{key}", json.loads(json.dumps(value, default=str))
    yield "scheduler.class", type(pipe.scheduler).__name__
    # The pipeline decodes with its own copy of the factor, not with the VAE's config.
    yield "vae.scaling_factor", float(pipe.vae_scaling_factor_image)
    for flag in (
        "use_tiling", "use_slicing", "num_latent_frames_batch_size", "tile_sample_min_height",
        "tile_sample_min_width", "tile_overlap_factor_height", "tile_overlap_factor_width",
    ):  # fmt: skip
        yield f"vae.{flag}", getattr(pipe.vae, flag)
    text = pipe.text_encoder.config
    for key in ("d_model", "d_ff", "d_kv", "num_layers", "num_heads", "feed_forward_proj"):
        yield f"text_encoder.{key}", getattr(text, key)
    length = pipe.transformer.config.max_text_seq_length
    yield "text.max_sequence_length", length
    # What an empty prompt becomes tells special tokens and padding apart without a vocabulary.
    empty = pipe.tokenizer("", padding="max_length", max_length=length)
    yield "text.empty_prompt_ids", list(empty.input_ids)


def read_policies(pipe: Any, dtype: str) -> Policies:
    """What Diffusers does when left to itself.

    Sources: `scheduling_ddim_cogvideox.py` (`__init__` rescales all entries, `set_timesteps` picks),
    `pipeline_cogvideox.py` (`encode_prompt`; `latents.to(prompt_embeds.dtype)` and guidance on the
    output in `__call__`), `pipeline_cogvideox_image2video.py` (`prepare_latents` scales the picture's
    latents, or divides them where the VAE says `invert_scale_latents`), `image_processor.py`
    (`numpy_to_pil` rounds; its pictures are what `export_to_video` gets by default).
    """
    scheduler = pipe.scheduler.config
    rescaled = (
        f"rescale all {scheduler.num_train_timesteps} levels to zero terminal SNR"
        if scheduler.rescale_betas_zero_snr
        else "no rescaling to zero terminal SNR"
    )
    return Policies(
        schedule=f"{rescaled}, then pick ({scheduler.timestep_spacing})",
        unconditional="text encoder of the negative prompt",
        latent_dtype=dtype,
        guidance_target="velocity",
        layer_norm_eps=float(pipe.transformer.norm_out.norm.eps),
        frames_to_uint8="round",
        image_scale=own_image_scale(pipe),
    )
