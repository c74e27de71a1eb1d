"""The function that a model computes: one guided transformer call on fixed inputs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backends.base import Case, Inputs, Pipeline
from backends.checkpoints.sat.layout import find_parts
from backends.errors import CheckpointError
from backends.noise import NoiseTape, standard_normal

_STEP, _STEPS = 1, 4
_FRAMES = 9


@dataclass(frozen=True)
class Natural:
    """The sizes that a model was made for; `frames` is short unless its positions are learned."""

    frames: int
    height: int
    width: int
    text_length: int
    text_width: int
    layers: int
    hidden: int


@dataclass(frozen=True)
class Distance:
    """How far two outputs are apart; `rel_l2` is relative to the first."""

    bit_equal: bool
    rel_l2: float
    max_abs: float


def natural_sizes(model: Path) -> Natural:
    """The sizes of the model folder `model`, SAT or Diffusers. Raises `CheckpointError`."""
    if not (model / "model_index.json").is_file():
        _, config = find_parts(model)
        part, pixels = config.transformer, config.vae.spatial_compression
        return Natural(
            min(_FRAMES, part.num_frames), part.latent_height * pixels, part.latent_width * pixels,
            part.text_length, part.text_hidden_size, part.num_layers, part.hidden_size,
        )  # fmt: skip
    try:
        part = json.loads((model / "transformer" / "config.json").read_text(encoding="utf-8"))
        vae = json.loads((model / "vae" / "config.json").read_text(encoding="utf-8"))
        pixels = 2 ** (len(vae["block_out_channels"]) - 1)
        # Diffusers reads a learned table only at the number of frames that it was made for.
        learned = part.get("use_learned_positional_embeddings", False)
        frames = part["sample_frames"] if learned else min(_FRAMES, part["sample_frames"])
        return Natural(
            frames, part["sample_height"] * pixels, part["sample_width"] * pixels,
            part["max_text_seq_length"], part["text_embed_dim"], part["num_layers"],
            part["num_attention_heads"] * part["attention_head_dim"],
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{model} has no readable transformer and VAE configuration"
            f" ({type(error).__name__}: {error}); fetch or save it again"
        ) from error


def guided_call(pipeline: Pipeline, sizes: Natural) -> Tensor:
    """The guided velocity (1, T, C, H, W), float32 on the CPU, on inputs that never change.

    Text embeddings, latents and, for image-to-video, the picture are given, so that T5 is not
    asked.
    """
    with tempfile.TemporaryDirectory(prefix="parity-picture-") as folder:
        image = None
        if pipeline.policies().image_scale is not None:
            image = str(_picture(Path(folder), sizes))
        case = Case(
            name="roundtrip", model="", prompt="", negative_prompt="", frames=sizes.frames,
            height=sizes.height, width=sizes.width, steps=_STEPS, guidance_scale=6.0,
            dynamic_guidance=False, sampler="ddim", fps=8, image=image,
        )  # fmt: skip
        shape = (1, sizes.text_length, sizes.text_width)
        text, negative = (
            torch.from_numpy(standard_normal(0, stream, shape)) * 0.2 for stream in (1, 2)
        )
        run = pipeline.prepare(case, Inputs(text=text, negative_text=negative))
        tape = NoiseTape(0)
        with torch.no_grad():
            run.encode_image(tape)
            latents = run.initial_latents(tape)
            return run.predict(latents, _STEP).velocity.float().cpu()


def recorded_call(
    pipeline: Pipeline, network: nn.Module, sizes: Natural
) -> tuple[Tensor, Callable[[], Tensor]]:
    """`guided_call` of `pipeline` at `sizes`, and a function that repeats the call of `network` within
    it, with gradients.

    The stacks' own ways to a prediction switch gradients off.
    """
    seen: list[tuple[Any, Any]] = []

    def keep(_: nn.Module, args: Any, kwargs: Any) -> None:
        seen.append((args, kwargs))

    handle = network.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        velocity = guided_call(pipeline, sizes)
    finally:
        handle.remove()
    args, kwargs = seen[0]

    def again() -> Tensor:
        with torch.enable_grad():
            output = network(*args, **kwargs)
        return output if isinstance(output, Tensor) else output[0]

    return velocity, again


def distance(before: Tensor, after: Tensor) -> Distance:
    """Compare two outputs; NaN in both at the same place is equal."""
    equal = before.shape == after.shape and torch.equal(
        torch.nan_to_num(before, nan=0.0), torch.nan_to_num(after, nan=0.0)
    )
    equal = equal and bool((before.isnan() == after.isnan()).all())
    if equal:
        return Distance(True, 0.0, 0.0)
    gap = after.double() - before.double()
    return Distance(False, float(gap.norm() / before.double().norm()), float(gap.abs().max()))


def _picture(folder: Path, sizes: Natural) -> Path:
    """A picture with a gradient of its own along each axis."""
    from PIL import Image

    rows, columns = np.mgrid[0 : sizes.height, 0 : sizes.width].astype(np.float64)
    red, green = 255 * rows / sizes.height, 255 * columns / sizes.width
    pixels = np.stack((red, green, (red + green) / 2), axis=-1).round().astype(np.uint8)
    path = folder / "picture.png"
    Image.fromarray(pixels).save(path)
    return path
