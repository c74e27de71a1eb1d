"""Whether an opened CogVideoX pipeline can carry out a case, said before it computes anything."""

from __future__ import annotations

import logging
import math
from typing import Any

from torch import Tensor

from backends.base import Case
from backends.diffusers.conditioning import takes_picture
from backends.errors import InvalidRequest, Unsupported

_log = logging.getLogger("parity")


def check_case(pipe: Any, case: Case) -> None:
    """Raise `InvalidRequest` for what this model cannot render; warn where quality is at stake."""
    config = pipe.transformer.config
    _check_conditioning(pipe, case)
    ratio = pipe.vae_scale_factor_temporal
    if case.frames < 1 or ((case.frames - 1) % ratio and case.frames % (2 * ratio)):
        below = max(case.frames - 1, 0) // (2 * ratio) * (2 * ratio) + 1
        raise InvalidRequest(
            f"case {case.name}: {case.frames} frames; expected {2 * ratio}k or {2 * ratio}k+1, for"
            f" instance {below} or {below + 2 * ratio - 1}"
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


def _check_conditioning(pipe: Any, case: Case) -> None:
    needs_picture = takes_picture(pipe)
    if case.image is not None and not needs_picture:
        raise InvalidRequest(
            f"case {case.name}: image={case.image!r} with a text-to-video model, which takes none;"
            " set image=null"
        )
    if case.video is not None and needs_picture:
        raise Unsupported(
            f"case {case.name}: video-to-video with an image-to-video model; Diffusers'"
            " CogVideoXVideoToVideoPipeline gives the transformer no picture, so it takes"
            " text-to-video models only"
        )
    if case.image is None and needs_picture:
        raise InvalidRequest(
            f"case {case.name}: an image-to-video model needs a picture; set image=FILE"
        )
    if case.video is None:
        return
    if case.solver_steps < 1:
        raise InvalidRequest(
            f"case {case.name}: strength={case.strength} of {case.steps} steps leaves none to run"
        )
    patch = pipe.transformer.config.get("patch_size_t") or 1
    latents = (case.frames - 1) // pipe.vae_scale_factor_temporal + 1
    if latents % patch:
        raise Unsupported(
            f"case {case.name}: {case.frames} frames are {latents} latents; video-to-video pads none,"
            f" so Diffusers refuses what {patch} does not divide. Use"
            f" {case.frames + pipe.vae_scale_factor_temporal} frames"
        )


def _check_trained_size(pipe: Any, case: Case) -> None:
    config, spatial = pipe.transformer.config, pipe.vae_scale_factor_spatial
    largest = (config.sample_height * spatial, config.sample_width * spatial)
    if config.use_learned_positional_embeddings:
        trained, came = (*largest, config.sample_frames), (case.height, case.width, case.frames)
        if came != trained:
            # Upstream refuses another size but replaces the table in silence for other lengths.
            raise InvalidRequest(
                f"case {case.name}: {came[0]}x{came[1]} pixels and {came[2]} frames, but this model"
                f" has learned positions for {trained[0]}x{trained[1]} and {trained[2]} only; use"
                " those"
            )
    sliced = config.get("patch_size_t") is not None
    if sliced and (case.height > largest[0] or case.width > largest[1]):
        raise InvalidRequest(
            f"case {case.name}: {case.height}x{case.width} pixels, but the table of this model's"
            f" rotary positions ends at {largest[0]}x{largest[1]}; use a smaller size"
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
