"""SAT against Diffusers' own pipelines, same weights and inputs, for every kind of the family.

Diffusers' pipeline is called as its users call it, in float32; only its draws come from the tape, and
the transformer's last norm gets SAT's eps: beside random weights, whose variances are small, the
difference of the two is larger than rounding. SAT takes the text embeddings, schedule and image scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from backends.base import Case, Inputs
from backends.diffusers.solver import own_table
from backends.noise import NoiseTape, Stage, expected_step_draws
from backends.stages.intercept import draws_from

LATENTS, FRAMES = 1e-5, 1e-4
"""Largest relative L2 distance; three steps at float32."""


class InOrder:
    """Serves a pipeline's draws from the tape's stages in the order in which they fall due."""

    def __init__(self, tape: NoiseTape, what: Case) -> None:
        self._tape = tape
        self._due = self._stages(what)
        self._open = ExitStack()
        self._left = 0

    def draw(self, shape: Any, generator: Any = None) -> Any:
        while self._left == 0:
            self._open.close()
            stage, step, self._left = next(self._due)
            self._open.enter_context(self._tape.stage(stage, step, 0, self._left, None))
        self._left -= 1
        return self._tape.draw(shape)

    @staticmethod
    def _stages(what: Case) -> Iterator[tuple[Stage, int, int]]:
        if what.image is not None:
            yield "image", 0, 1
        yield "initial", 0, 1
        for step in range(what.steps):
            most = expected_step_draws(what.sampler, step, what.steps)[1]
            if most:
                yield "step", step, most


def render_with_diffusers(folder: Path, what: Case) -> tuple[Tensor, Tensor, Inputs]:
    """Final latents, frames (T, H, W, 3), and what SAT is to share."""
    from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler, DiffusionPipeline

    pipe: Any = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.transformer.norm_out.norm.eps = 1e-6
    pipe.set_progress_bar_config(disable=True)
    kind = CogVideoXDDIMScheduler if what.sampler == "ddim" else CogVideoXDPMScheduler
    pipe.scheduler = kind.from_config(pipe.scheduler.config)
    schedule = own_table(pipe.scheduler, what.steps)
    text, negative = pipe.encode_prompt(what.prompt, "", max_sequence_length=16, device="cpu")
    with torch.no_grad(), draws_from(InOrder(NoiseTape(0), what)):  # type: ignore[arg-type]
        latents = pipe(
            **({} if what.image is None else {"image": Image.open(what.image)}),
            prompt_embeds=text, negative_prompt_embeds=negative, height=what.height,
            width=what.width, num_frames=what.frames, num_inference_steps=what.steps,
            guidance_scale=what.guidance_scale, use_dynamic_cfg=what.dynamic_guidance,
            output_type="latent",
        ).frames  # fmt: skip
        padding = 0 if pipe.transformer.config.patch_size_t is None else 1
        video = pipe.decode_latents(latents[:, padding:])
    scale = pipe.vae.config.scaling_factor
    inputs = Inputs(
        text=text, negative_text=negative, schedule=schedule, latent_dtype="float32",
        image_scale=1 / scale if pipe.vae.config.invert_scale_latents else scale,
    )  # fmt: skip
    return latents, (video[0].permute(1, 2, 3, 0) / 2 + 0.5).clamp(0, 1), inputs


def relative(came: Tensor, expected: Tensor) -> float:
    assert came.shape == expected.shape
    return float((came - expected).norm() / expected.norm())


def test_final_latents_and_frames_agree_to_rounding(
    kind: str, single: Any, family: dict[str, Path], make_case: Any
) -> None:
    sampler = "ddim" if kind in ("2b", "5b-i2v") else "dpm"
    what = make_case(kind, sampler=sampler, dynamic_guidance=sampler == "dpm")
    expected, expected_frames, inputs = render_with_diffusers(family[kind], what)
    results: list[Tensor] = []
    frames = single.render(what, inputs, NoiseTape(0), lambda *step: results.append(step[-1]))
    latents = relative(results[-1], expected)
    pixels = relative(frames, expected_frames)
    print(f"{kind} {sampler}: latents {latents:.1e}, frames {pixels:.1e}")
    assert 0 < latents <= LATENTS
    assert pixels <= FRAMES
