"""Whether an opened SAT model can carry out a case, said before it computes anything."""

from __future__ import annotations

import logging
import math

from torch import Tensor

from backends.base import Case
from backends.errors import InvalidRequest, Unsupported
from backends.sat.opened import OpenedModel
from backends.sat.vae import decode_pieces

_log = logging.getLogger("parity")


def check_text(engine: OpenedModel, name: str, text: Tensor) -> None:
    """Raise `InvalidRequest` if a shared embedding does not fit the transformer."""
    config = engine.config.transformer
    expected = (1, config.text_length, config.text_hidden_size)
    if tuple(text.shape) != expected:
        raise InvalidRequest(
            f"the shared {name} has shape {tuple(text.shape)}, expected {expected}: it comes from a"
            " model with another text length or encoder; set it to `own` in the match"
        )


def check_case(engine: OpenedModel, case: Case) -> None:
    """Raise `InvalidRequest` or `Unsupported` for what this model cannot render; warn where
    asked."""
    config = engine.config
    transformer, rate = config.transformer, config.transformer.time_compressed_rate
    if case.image is not None:
        raise InvalidRequest(
            f"case {case.name}: image={case.image!r} with a text-to-video model, which takes none;"
            " set image=null"
        )
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
            config.text.max_length,
        )
