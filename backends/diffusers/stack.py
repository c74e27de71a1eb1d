"""The parts of an opened CogVideoX pipeline that a run is made of, each called as the pipeline does.

Sources: `pipeline_cogvideox.py` and `pipeline_cogvideox_image2video.py`, the named methods and the loop
of `__call__`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stack:
    """An opened pipeline and its dtypes; `in_force` puts its process-wide settings in force."""

    pipe: Any
    dtype: torch.dtype
    vae_dtype: torch.dtype
    text_dtype: torch.dtype
    in_force: Callable[[], AbstractContextManager[None]]

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes, whatever its placement."""
        return self.pipe._execution_device

    @property
    def text_length(self) -> int:
        """Tokens of a text embedding; the pipeline's own default fits only the released models."""
        return self.pipe.transformer.config.max_text_seq_length

    def encode(self, words: str) -> Tensor:
        """Text embedding (1, L, D) of `words`."""
        with self.in_force():
            embedding, _ = self.pipe.encode_prompt(
                words,
                do_classifier_free_guidance=False,
                max_sequence_length=self.text_length,
                device=self.device,
                dtype=self.dtype,
            )
        return embedding

    def denoise(
        self,
        latents: Tensor,
        picture: Tensor | None,
        embeddings: Tensor,
        timestep: Tensor,
        height: int,
        width: int,
    ) -> Tensor:
        """The transformer's raw output for every text in `embeddings` (N, L, D): (N, T, C, H, W).

        `latents` and a `picture`'s are (1, T, C, H, W); `height` and `width` are pixels, for the
        rotary positions.
        """
        pipe = self.pipe
        rotary = (
            pipe._prepare_rotary_positional_embeddings(
                height, width, latents.size(1), latents.device
            )
            if pipe.transformer.config.use_rotary_positional_embeddings
            else None
        )
        given = torch.cat([latents] * len(embeddings))
        further: dict[str, Any] = {}
        if picture is not None:
            given = torch.cat([given, torch.cat([picture] * len(embeddings))], dim=2)
            if pipe.transformer.config.get("ofs_embed_dim") is not None:
                further["ofs"] = latents.new_full((1,), fill_value=2.0)
        pipe._current_timestep = timestep  # caches ask for it
        with self.in_force(), _cache_context(pipe.transformer):
            return pipe.transformer(
                hidden_states=given,
                encoder_hidden_states=embeddings,
                timestep=timestep.expand(given.shape[0]),
                image_rotary_emb=rotary,
                attention_kwargs=None,
                return_dict=False,
                **further,
            )[0]

    def decode(self, latents: Tensor) -> Tensor:
        """Frames (T, H, W, 3) float32 in [0, 1] of latents (1, T, C, H, W) without surplus frames."""
        with self.in_force(), self.decoding(lambda given: given):
            video = self.pipe.decode_latents(latents)
            frames = self.pipe.video_processor.postprocess_video(video=video, output_type="np")
        # The pipeline's loop ends with this; it sends offloaded models back.
        self.pipe.maybe_free_model_hooks()
        return torch.from_numpy(frames[0])

    @contextmanager
    def decoding(self, chosen: Callable[[Tensor], Tensor]) -> Generator[None]:
        """Decode `chosen(latents)` in place of the pipeline's latents, in the VAE's own dtype.

        Upstream hands the VAE latents in the transformer's dtype, which fails where the two differ.
        """
        decode_latents, vae_decode = self.pipe.decode_latents, self.pipe.vae.decode

        def of_chosen(latents: Tensor) -> Tensor:
            return decode_latents(chosen(latents))

        def in_own_dtype(z: Tensor, **kwargs: Any) -> Any:
            return vae_decode(z.to(self.vae_dtype), **kwargs)

        with (
            patch.object(self.pipe, "decode_latents", of_chosen),
            patch.object(self.pipe.vae, "decode", in_own_dtype),
        ):
            yield


def _cache_context(transformer: Any) -> AbstractContextManager[Any]:
    """What the pipeline's loop calls the transformer in, where this version of Diffusers has caches."""
    if not hasattr(transformer, "cache_context"):
        return nullcontext()
    return transformer.cache_context("cond_uncond")
