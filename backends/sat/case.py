"""Whether an opened SAT model can carry out a case, said before it computes anything."""

from __future__ import annotations

import logging
import math

from torch import Tensor

from backends.base import Case
from backends.checkpoints.sat.config import ModelConfig, TransformerConfig
from backends.errors import InvalidRequest, Unsupported
from backends.sat.opened import OpenedModel
from backends.sat.vae import decode_pieces

_log = logging.getLogger("parity")


def check_text(engine: OpenedModel, name: str, text: Tensor) -> None:
    """Raise `InvalidRequest` if a shared embedding does not fit the transformer.

    The position table of 1.0 fixes the text's length; to 1.5 any length will do.
    """
    config = engine.config.transformer
    length = config.text_length if config.patch_size_t is None else text.shape[1]
    expected = (1, length, config.text_hidden_size)
    if tuple(text.shape) != expected:
        raise InvalidRequest(
            f"the shared {name} has shape {tuple(text.shape)}, expected {expected}: it comes from a"
            " model with another text length or encoder; set it to `own` in the match"
        )


def check_image_scale(engine: OpenedModel, scale: float | None) -> None:
    """Raise `InvalidRequest` for a shared image scale that is no positive number."""
    takes_image = engine.config.transformer.takes_image
    if takes_image and scale is not None and not (math.isfinite(scale) and scale > 0):
        raise InvalidRequest(f"shared image_scale={scale}; expected a positive number")


def check_case(engine: OpenedModel, case: Case) -> None:
    """Raise `InvalidRequest` or `Unsupported` for what this model cannot render; warn where
    asked."""
    _check_kind(engine.config.transformer, case)
    if engine.config.transformer.patch_size_t is None:
        _check_size(engine.config, case)
    else:
        _check_size_of_15(engine.config, case)
    if not (math.isfinite(case.guidance_scale) and case.guidance_scale >= 0):
        raise InvalidRequest(
            f"case {case.name}: guidance_scale={case.guidance_scale}; expected a number >= 0"
        )
    if case.sampler not in ("ddim", "dpm"):
        raise InvalidRequest(f"case {case.name}: sampler={case.sampler!r}; expected ddim or dpm")
    if case.negative_prompt:
        _log.warning(
            "case %s: SAT ignores the negative prompt; its unconditional text embedding is zeros",
            case.name,
        )
    if engine.conditioner.is_cut(case.prompt):
        _log.warning(
            "case %s: the prompt has more tokens than the %d that this model takes; the rest is cut"
            " off, as SAT does. Shorten it if that is not intended",
            case.name,
            engine.config.text.max_length,
        )


def _check_kind(transformer: TransformerConfig, case: Case) -> None:
    if case.video is not None:
        raise Unsupported(
            f"case {case.name}: video={case.video!r}; CogVideo's SAT code has no video-to-video: its"
            " `sat/sample_video.py` always starts from pure noise. Render this case with Diffusers"
        )
    if transformer.takes_image and case.image is None:
        raise InvalidRequest(
            f"case {case.name}: image=null with an image-to-video model; name a picture file"
        )
    if not transformer.takes_image and case.image is not None:
        raise InvalidRequest(
            f"case {case.name}: image={case.image!r} with a text-to-video model, which takes none;"
            " set image=null"
        )


def _check_size(config: ModelConfig, case: Case) -> None:
    """1.0: up to the frames of the position table, at exactly its height and width."""
    transformer, rate = config.transformer, config.transformer.time_compressed_rate
    if case.frames < 1 or (case.frames - 1) % rate:
        raise InvalidRequest(
            f"case {case.name}: {case.frames} frames; expected {2 * rate}k+1, for instance"
            f" {2 * rate + 1} or {transformer.num_frames}"
        )
    if case.frames > transformer.num_frames:
        raise Unsupported(
            f"case {case.name}: {case.frames} frames; SAT's position table for this model ends at"
            f" {transformer.num_frames}. Ask for at most that many"
        )
    decode_pieces((case.frames - 1) // rate + 1)
    pixels = config.vae.spatial_compression
    size = (transformer.latent_height * pixels, transformer.latent_width * pixels)
    if (case.height, case.width) != size:
        raise Unsupported(
            f"case {case.name}: {case.height}x{case.width} pixels; SAT renders this model at"
            f" {size[0]}x{size[1]} only, the size of its position table. Use that size"
        )


def _check_size_of_15(config: ModelConfig, case: Case) -> None:
    """1.5: an even number of latent frames with the padding, and a size within the table.

    CogVideo always puts one padding frame before the video and always drops it, so the frames
    without it must be odd for its patches of two frames; Diffusers pads only where that is needed.
    """
    transformer, rate = config.transformer, config.transformer.time_compressed_rate
    period = transformer.patch_size_t or 1
    latent_frames = transformer.latent_frames(case.frames)
    longest = (transformer.table_frames * period - 2) * rate + 1
    if case.frames < 1 or (case.frames - 1) % rate:
        raise InvalidRequest(
            f"case {case.name}: {case.frames} frames; expected {period * rate}k+1, for instance"
            f" {period * rate + 1} or {transformer.num_frames}"
        )
    if latent_frames % period or latent_frames < 2 * period:
        raise Unsupported(
            f"case {case.name}: {case.frames} frames are {latent_frames} latent frames with SAT's"
            f" padding frame, which its patches of {period} frames and its decoder cannot take; ask"
            f" for {period * rate}k+1 frames, k from 1"
        )
    if case.frames > longest:
        raise Unsupported(
            f"case {case.name}: {case.frames} frames; SAT's position table for this model ends at"
            f" {longest}. Ask for at most that many"
        )
    pixels = config.vae.spatial_compression
    multiple = pixels * transformer.patch_size
    for name, value, bound in (
        ("height", case.height, transformer.latent_height * pixels),
        ("width", case.width, transformer.latent_width * pixels),
    ):
        if value < multiple or value % multiple:
            raise InvalidRequest(
                f"case {case.name}: {name}={value}; expected a positive multiple of {multiple}"
            )
        if value > bound:
            raise Unsupported(
                f"case {case.name}: {name}={value}; SAT's position table for this model ends at"
                f" {bound} pixels. Ask for at most that many"
            )
