"""The picture or clip that a case conditions on, encoded by the pipeline's own `prepare_latents`.

Sources: `prepare_latents` and the loop's preamble in `pipeline_cogvideox_image2video.py` and
`pipeline_cogvideox_video2video.py`.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor

from backends.base import Case
from backends.diffusers.stack import Stack
from backends.errors import InvalidRequest
from backends.noise import NoiseTape
from backends.stages.pictures import read_clip, read_picture

if TYPE_CHECKING:
    from PIL.Image import Image


def pipeline_for(pipe: Any, case: Case) -> Any:
    """`pipe` itself, or for video-to-video the same parts under that pipeline's class.

    The two objects share all state, so that hooks, schedulers and patches of one are the other's;
    a second pipeline made from the components would not know of model offloading.
    """
    if case.video is None:
        return pipe
    view = object.__new__(import_module("diffusers").CogVideoXVideoToVideoPipeline)
    view.__dict__ = pipe.__dict__
    return view


def takes_picture(pipe: Any) -> bool:
    """Whether the transformer takes a picture's latents beside the noisy ones."""
    return int(pipe.transformer.config.in_channels) == 2 * int(pipe.vae.config.latent_channels)


def own_image_scale(pipe: Any) -> float | None:
    """The multiplier of a picture's latents that the pipeline uses when left to itself."""
    if not takes_picture(pipe):
        return None
    factor = float(pipe.vae_scaling_factor_image)
    return 1 / factor if pipe.vae.config.get("invert_scale_latents") else factor


class Conditioning:
    """What one case conditions on beside its text: a picture, a clip, or nothing.

    `frames` counts those of the padded latents. `image_scale` None leaves the scale to the pipeline.
    Raises `InvalidRequest` for a file that cannot be read or a clip that is too short.
    """

    def __init__(self, stack: Stack, case: Case, frames: int, image_scale: float | None) -> None:
        self._stack, self._case, self._frames = stack, case, frames
        self._image_scale = image_scale
        self.picture: Image | None = None if case.image is None else read_picture(case.image)
        self.clip: list[Image] | None = None
        if case.video is not None:
            clip = read_clip(case.video)
            if len(clip) < case.frames:
                raise InvalidRequest(
                    f"case {case.name}: the video {case.video} has {len(clip)} frames, the case"
                    f" {case.frames}; shorten the case or give a longer video"
                )
            self.clip = clip[: case.frames]

    @property
    def arguments(self) -> dict[str, Any]:
        """What the pipeline's `__call__` is given for it."""
        if self.picture is not None:
            return {"image": self.picture, "num_frames": self._case.frames}
        if self.clip is not None:
            return {"video": self.clip, "strength": self._case.strength}
        return {"num_frames": self._case.frames}

    def picture_latents(self, tape: NoiseTape) -> Tensor:
        """The picture encoded, scaled and padded: (1, T, C, H, W) as the transformer takes it."""
        pipe, case, stack = self._stack.pipe, self._case, self._stack
        picture = pipe.video_processor.preprocess(self.picture, case.height, case.width)
        return self.of_picture(
            pipe.prepare_latents,
            {
                "image": picture.to(stack.device, dtype=stack.dtype),
                "num_channels_latents": int(pipe.vae.config.latent_channels),
                "num_frames": self._frames,
                "height": case.height,
                "width": case.width,
                "dtype": stack.dtype,
                "device": stack.device,
                "latents": torch.zeros(1),
            },
            tape,
        )[1]

    def noised_clip(
        self, tape: NoiseTape, timestep: Tensor, dtype: torch.dtype, shape: tuple[int, ...]
    ) -> Tensor:
        """The clip encoded and brought to the noise level of `timestep`: (1, T, C, H, W)."""
        pipe, case, stack = self._stack.pipe, self._case, self._stack
        clip = pipe.video_processor.preprocess_video(self.clip, case.height, case.width)
        return self.of_clip(
            pipe.prepare_latents,
            {
                "video": clip.to(stack.device, dtype=stack.dtype),
                "num_channels_latents": int(pipe.vae.config.latent_channels),
                "height": case.height,
                "width": case.width,
                "device": stack.device,
                "timestep": timestep[None],
            },
            tape,
            dtype,
            shape,
        )

    def of_picture(self, prepare_latents: Any, arguments: dict[str, Any], tape: NoiseTape) -> Any:
        """What `prepare_latents` makes of given noise and the picture, if there is one."""
        pipe, scale = self._stack.pipe, self._image_scale
        factor = float(pipe.vae_scaling_factor_image)
        if scale is not None and scale != own_image_scale(pipe):
            factor = 1 / scale if pipe.vae.config.get("invert_scale_latents") else scale
        with self._encoding(tape, None), patch.object(pipe, "vae_scaling_factor_image", factor):
            return prepare_latents(**arguments)

    def of_clip(
        self,
        prepare_latents: Any,
        arguments: dict[str, Any],
        tape: NoiseTape,
        dtype: torch.dtype,
        shape: tuple[int, ...],
    ) -> Tensor:
        """What `prepare_latents` makes of the clip, computed in `dtype`."""
        with self._encoding(tape, shape):
            return prepare_latents(**{**arguments, "dtype": dtype})

    @contextmanager
    def _encoding(self, tape: NoiseTape, noise: tuple[int, ...] | None) -> Generator[None]:
        """Let the VAE encode in its own dtype and its posterior draw at the tape's stage `image`.

        Where the pipeline goes on to draw its initial noise, that has the shape `noise`.
        """
        vae = self._stack.pipe.vae
        vae_encode = vae.encode
        with ExitStack() as afterwards:

            def encode(pixels: Tensor, **kwargs: Any) -> Any:
                encoded = vae_encode(pixels.to(self._stack.vae_dtype), **kwargs)
                posterior = encoded.latent_dist
                sample_posterior = posterior.sample

                def sample(generator: Any = None) -> Tensor:
                    with tape.stage("image", 0, 1, 1, posterior.mean.shape):
                        drawn = sample_posterior(generator)
                    if noise is not None:
                        afterwards.enter_context(tape.stage("initial", 0, 1, 1, noise))
                    return drawn

                posterior.sample = sample
                return encoded

            with patch.object(vae, "encode", encode):
                yield
