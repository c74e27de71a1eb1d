"""Defects of image-to-video and of CogVideoX 1.5 on Diffusers: picture, `ofs`, patches, positions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backends.base import Pipeline
from backends.noise import standard_normal
from backends.worker.patches import patch
from tests.selftest.faults.planting import become, module, on_input, overwrite, stack


def on_picture(pipeline: Pipeline, change: Callable[[Tensor], Tensor]) -> None:
    """Let `change` replace the picture's scaled and padded latents (1, T, C, H, W)."""
    pipe = stack(pipeline)
    native = type(pipe).prepare_latents

    def prepare(self: Any, *arguments: Any, **keywords: Any) -> tuple[Tensor, Tensor]:
        latents, picture = native(self, *arguments, **keywords)
        return latents, change(picture)

    become(pipe, prepare_latents=prepare)


def on_pixels(pipeline: Pipeline, change: Callable[[Tensor], Tensor]) -> None:
    """Let `change` replace the picture (1, 3, 1, H, W) in [-1, 1] that the VAE encodes."""
    vae = stack(pipeline).vae
    native = type(vae).encode

    def encode(self: Any, x: Tensor, *arguments: Any, **keywords: Any) -> Any:
        return native(self, change(x), *arguments, **keywords)

    become(vae, encode=encode)


def _noise(like: Tensor) -> Tensor:
    """Standard normal noise that the tape knows nothing of."""
    drawn = standard_normal(99, 0, like.shape)
    return torch.from_numpy(np.ascontiguousarray(drawn)).to(like)


@patch("image_scale_not_inverted")
def scale_not_inverted(pipeline: Pipeline) -> None:
    """The 1.5 model's picture is scaled as the 1.0 models' are."""
    stack(pipeline).vae.register_to_config(invert_scale_latents=False)


@patch("image_scaled_twice")
def scaled_twice(pipeline: Pipeline) -> None:
    """The picture's latents are scaled once more."""
    on_picture(pipeline, lambda picture: picture * 0.7)


@patch("image_is_noise")
def is_noise(pipeline: Pipeline) -> None:
    """Faint noise is encoded in place of the picture."""
    on_pixels(pipeline, lambda pixels: _noise(pixels) * math.exp(-3))


@patch("image_augmented")
def augmented(pipeline: Pipeline) -> None:
    """Training's noise is added to the picture."""
    on_pixels(pipeline, lambda pixels: pixels + _noise(pixels) * math.exp(-3))


@patch("image_bgr")
def bgr(pipeline: Pipeline) -> None:
    """The picture is read as BGR."""
    on_pixels(pipeline, lambda pixels: pixels.flip(1))


@patch("image_half_range")
def half_range(pipeline: Pipeline) -> None:
    """The picture is given in [0, 1], not in [-1, 1]."""
    on_pixels(pipeline, lambda pixels: pixels / 2 + 0.5)


@patch("image_mirrored")
def mirrored(pipeline: Pipeline) -> None:
    """Left and right exchanged."""
    on_pixels(pipeline, lambda pixels: pixels.flip(-1))


@patch("image_bf16")
def bf16(pipeline: Pipeline) -> None:
    """The picture's latents are rounded to bfloat16 in a float32 run."""
    on_picture(pipeline, lambda picture: picture.bfloat16().to(picture.dtype))


@patch("image_padding_copied")
def padding_copied(pipeline: Pipeline) -> None:
    """The frames after the picture's are copies of it, not zeros."""
    on_picture(pipeline, lambda picture: picture[:, :1].expand_as(picture).clone())


@patch("image_on_last_frame")
def on_last_frame(pipeline: Pipeline) -> None:
    """The picture is placed on the last frame."""
    on_picture(pipeline, lambda picture: picture.flip(1))


@patch("image_first_copy_missing")
def first_copy_missing(pipeline: Pipeline) -> None:
    """The frame that pads the 1.5 model's latents is zeros, not a copy of the picture."""

    def change(picture: Tensor) -> Tensor:
        picture = picture.clone()
        picture[:, 0] = 0
        return picture

    on_picture(pipeline, change)


@patch("image_dropped")
def dropped(pipeline: Pipeline) -> None:
    """The picture is dropped without a word."""
    on_picture(pipeline, torch.zeros_like)


@patch("image_mode")
def mode(pipeline: Pipeline) -> None:
    """The posterior's mean is taken; its noise is drawn and not used."""
    vae = stack(pipeline).vae
    native = type(vae).encode

    def encode(self: Any, *arguments: Any, **keywords: Any) -> Any:
        found = native(self, *arguments, **keywords)
        found.latent_dist.std = torch.zeros_like(found.latent_dist.std)
        return found

    become(vae, encode=encode)


@patch("image_missing_in_unconditional_branch")
def missing_in_unconditional_branch(pipeline: Pipeline) -> None:
    """The unconditional branch gets a zero picture."""

    def change(arguments: Any, keywords: Any) -> tuple[Any, Any]:
        given = keywords["hidden_states"].clone()
        given[0, :, given.shape[2] // 2 :] = 0
        return arguments, {**keywords, "hidden_states": given}

    on_input(module(pipeline, "transformer"), change)


def _ofs(pipeline: Pipeline, change: Callable[[dict[str, Any]], Tensor]) -> None:
    def act(arguments: Any, keywords: Any) -> tuple[Any, Any]:
        return arguments, {**keywords, "ofs": change(keywords)}

    on_input(module(pipeline, "transformer"), act)


@patch("ofs_zero")
def ofs_zero(pipeline: Pipeline) -> None:
    """`ofs` 0 in place of 2."""
    _ofs(pipeline, lambda given: given["ofs"] * 0)


@patch("ofs_one")
def ofs_one(pipeline: Pipeline) -> None:
    """`ofs` 1 in place of 2."""
    _ofs(pipeline, lambda given: given["ofs"] / 2)


@patch("ofs_is_timestep")
def ofs_is_timestep(pipeline: Pipeline) -> None:
    """`ofs` is fed with the timestep."""
    _ofs(pipeline, lambda given: given["timestep"][:1].to(given["ofs"]))


@patch("patches_channels_last")
def patches_channels_last(pipeline: Pipeline) -> None:
    """The 1.5 patch embedding expects channels last: (o, p, q, c), not (c, o, p, q)."""
    weight = module(pipeline, "transformer.patch_embed.proj").weight
    parts = weight.view(weight.shape[0], -1, 2, 2, 2)
    overwrite(weight, parts.permute(0, 2, 3, 4, 1).reshape(weight.shape).clone())


@patch("patches_frames_swapped")
def patches_frames_swapped(pipeline: Pipeline) -> None:
    """The two frames of a temporal patch exchanged on the way in."""
    weight = module(pipeline, "transformer.patch_embed.proj").weight
    parts = weight.view(weight.shape[0], -1, 2, 2, 2)
    overwrite(weight, parts.flip(2).reshape(weight.shape).clone())


@patch("rope_resized")
def rope_resized(pipeline: Pipeline) -> None:
    """The 1.5 model's positions are resized from the table's size, as 1.0 does, not sliced."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    pipe = stack(pipeline)

    def prepare(self: Any, height: int, width: int, num_frames: int, device: Any) -> Any:
        config = self.transformer.config
        step = self.vae_scale_factor_spatial * config.patch_size
        rows, columns = (config.sample_height, config.sample_width)
        return get_3d_rotary_pos_embed(
            embed_dim=config.attention_head_dim,
            crops_coords=((0, 0), (rows // config.patch_size, columns // config.patch_size)),
            grid_size=(height // step, width // step),
            temporal_size=(num_frames + config.patch_size_t - 1) // config.patch_size_t,
            device=device,
        )

    become(pipe, _prepare_rotary_positional_embeddings=prepare)


@patch("positions_not_loaded")
def positions_not_loaded(pipeline: Pipeline) -> None:
    """The learned positions of image-to-video are forwarded as None."""
    table = module(pipeline, "transformer.patch_embed").pos_embedding
    overwrite(table, torch.zeros_like(table))


@patch("positions_from_formula")
def positions_from_formula(pipeline: Pipeline) -> None:
    """The learned positions of image-to-video keep their initial sines and cosines."""
    embed = module(pipeline, "transformer.patch_embed")
    initial = embed._get_positional_embeddings(
        embed.sample_height, embed.sample_width, embed.sample_frames
    )
    overwrite(embed.pos_embedding, initial)
