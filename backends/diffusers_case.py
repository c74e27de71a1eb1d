"""Whether an opened CogVideoX pipeline can carry out a case, said before it computes anything."""

from __future__ import annotations

import logging
import math
from typing import Any

from torch import Tensor

from backends.base import Case
from backends.errors import InvalidRequest

_log = logging.getLogger("parity")


def check_case(pipe: Any, case: Case) -> None:
    """Raise `InvalidRequest` for what this model cannot render; warn where quality is at stake."""
    config = pipe.transformer.config
    if case.image is not None:
        raise InvalidRequest(
            f"case {case.name}: image={case.image!r} with a text-to-video model, which takes none;"
            " set image=null"
        )
    ratio = pipe.vae_scale_factor_temporal
    if case.frames < 1 or (case.frames - 1) % ratio:
        below = max(case.frames - 1, 0) // ratio * ratio + 1
        raise InvalidRequest(
            f"case {case.name}: {case.frames} frames; expected {ratio}k+1, for instance {below} or"
            f" {below + ratio}"
        )
    grain = pipe.vae_scale_factor_spatial * config.patch_size
    for name, size in (("height", case.height), ("width", case.width)):
        if size < grain or size % grain:
            below = max(size // grain, 1) * grain
            raise InvalidRequest(
                f"case {case.name}: {name}={size} pixels; expected a multiple of {grain}, for"
                f" instance {below} or {below + grain}"
            )
    _check_trained_size(pipe, case)
    longest = pipe.scheduler.config.num_train_timesteps
    if not 1 <= case.steps <= longest:
        raise InvalidRequest(f"case {case.name}: {case.steps} steps; expected 1 to {longest}")
    if not (math.isfinite(case.guidance_scale) and case.guidance_scale >= 0):
        raise InvalidRequest(
            f"case {case.name}: guidance_scale={case.guidance_scale}; expected a number >= 0"
        )
    if case.sampler not in ("ddim", "dpm"):
        raise InvalidRequest(f"case {case.name}: sampler={case.sampler!r}; expected ddim or dpm")
    for name, text in (("prompt", case.prompt), ("negative_prompt", case.negative_prompt)):
        _warn_if_cut(pipe, case, name, text)


def check_text(pipe: Any, name: str, text: Tensor) -> None:
    """Raise `InvalidRequest` if a shared embedding does not fit the transformer."""
    config = pipe.transformer.config
    expected = (1, config.max_text_seq_length, config.text_embed_dim)
    if tuple(text.shape) != expected:
        raise InvalidRequest(
            f"the shared {name} has shape {tuple(text.shape)}, expected {expected}: it comes from a"
            " model with another text length or encoder; set it to `own` in the match"
        )


def _check_trained_size(pipe: Any, case: Case) -> None:
    config, spatial = pipe.transformer.config, pipe.vae_scale_factor_spatial
    trained = (config.sample_height * spatial, config.sample_width * spatial)
    if config.use_learned_positional_embeddings and (case.height, case.width) != trained:
        raise InvalidRequest(
            f"case {case.name}: {case.height}x{case.width} pixels, but this model has learned"
            f" positions for {trained[0]}x{trained[1]} only; use that size"
        )
    if case.frames > config.sample_frames:
        _log.warning(
            "case %s: %d frames, but this model was trained on at most %d; expect artefacts",
            case.name, case.frames, config.sample_frames,
        )  # fmt: skip


def _warn_if_cut(pipe: Any, case: Case, name: str, text: str) -> None:
    """Diffusers cuts a long prompt, as it should, but tells only its own logger."""
    longest = pipe.transformer.config.max_text_seq_length
    tokens = len(pipe.tokenizer(text).input_ids)
    if tokens > longest:
        _log.warning(
            "case %s: %s has %d tokens and this model takes %d; the rest is cut off, as Diffusers"
            " does; shorten it if that is not intended",
            case.name, name, tokens, longest,
        )  # fmt: skip
