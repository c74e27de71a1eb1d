"""The adapter against Diffusers' pipelines called directly: the same frames, to the bit."""

from dataclasses import replace

import pytest
import torch
from contract_driving import native
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXVideoToVideoPipeline,
)
from small_renders import CASE, opened

from backends.micro import model_path
from backends.noise import standard_normal
from backends.stages.convolutions import accumulate_in_float32
from backends.stages.pictures import read_clip, read_picture


@pytest.mark.parametrize("model", ["micro-2b", "micro-5b"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_frames_are_those_of_plain_diffusers(model: str, dtype: str) -> None:
    case = replace(CASE, sampler="ddim", dynamic_guidance=True, negative_prompt="a blue square")
    pipe = CogVideoXPipeline.from_pretrained(model_path(model), dtype=getattr(torch, dtype))
    accumulate_in_float32(pipe.vae)  # the one thing that the adapter changes, on a CPU
    pipe.scheduler = CogVideoXDDIMScheduler.from_config(pipe.scheduler.config)
    noise = torch.from_numpy(standard_normal(7, 0, (1, 3, 16, 4, 4)))
    plain = pipe(
        prompt=case.prompt,
        negative_prompt=case.negative_prompt,
        num_frames=case.frames,
        height=case.height,
        width=case.width,
        num_inference_steps=case.steps,
        guidance_scale=case.guidance_scale,
        use_dynamic_cfg=True,
        latents=noise.to(getattr(torch, dtype)),
        max_sequence_length=24,
        output_type="np",
    ).frames[0]
    pipeline = opened(model, dtype=dtype)
    assert torch.equal(native(pipeline, case, seed=7).frames, torch.from_numpy(plain))
    pipeline.close()


def test_dpm_frames_are_those_of_plain_diffusers_with_the_tapes_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Plain Diffusers, its noise replaced by hand: step i, draw k comes from slot (1, i, k)."""
    from diffusers.schedulers import scheduling_dpm_cogvideox as module

    slots = [(1 << 48) | (step << 16) | k for step, k in ((0, 0), (1, 0), (1, 1), (2, 0))]
    monkeypatch.setattr(
        module,
        "randn_tensor",
        lambda shape, **_: torch.from_numpy(standard_normal(7, slots.pop(0), shape)),
    )
    pipe = CogVideoXPipeline.from_pretrained(model_path("micro-5b"), dtype=torch.float32)
    pipe.scheduler = module.CogVideoXDPMScheduler.from_config(pipe.scheduler.config)
    plain = pipe(
        prompt=CASE.prompt,
        num_frames=CASE.frames,
        height=CASE.height,
        width=CASE.width,
        num_inference_steps=CASE.steps,
        guidance_scale=CASE.guidance_scale,
        latents=torch.from_numpy(standard_normal(7, 0, (1, 3, 16, 4, 4))),
        max_sequence_length=24,
        output_type="np",
    ).frames[0]
    monkeypatch.undo()
    assert slots == []
    pipeline = opened()
    assert torch.equal(native(pipeline, CASE, seed=7).frames, torch.from_numpy(plain))
    pipeline.close()


IMAGE_SLOT = 2 << 48
PICTURE, CLIP = "micro:red-circle.png", "micro:blue-square-clip.png"


def _tape_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain Diffusers, a VAE posterior's draw replaced by the tape's: its slot is (2, 0, 0)."""
    from diffusers.models.autoencoders import vae

    draw = standard_normal
    monkeypatch.setattr(
        vae, "randn_tensor", lambda shape, **_: torch.from_numpy(draw(7, IMAGE_SLOT, shape))
    )


@pytest.mark.parametrize(
    ("model", "frames", "size", "latents"),
    [("micro-5b-i2v", 17, 64, (5, 8)), ("micro-1.5-5b-i2v", 9, 32, (4, 4))],
)
def test_image_to_video_is_that_of_plain_diffusers(
    model: str, frames: int, size: int, latents: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = replace(
        CASE, frames=frames, height=size, width=size, sampler="ddim", image=PICTURE, steps=2
    )
    pipe = CogVideoXImageToVideoPipeline.from_pretrained(model_path(model), dtype=torch.float32)
    pipe.scheduler = CogVideoXDDIMScheduler.from_config(pipe.scheduler.config)
    _tape_by_hand(monkeypatch)
    plain = pipe(
        image=read_picture(PICTURE),
        prompt=case.prompt,
        num_frames=frames,
        height=size,
        width=size,
        num_inference_steps=case.steps,
        guidance_scale=case.guidance_scale,
        latents=torch.from_numpy(
            standard_normal(7, 0, (1, latents[0], 16, latents[1], latents[1]))
        ),
        max_sequence_length=24,
        output_type="np",
    ).frames[0]
    monkeypatch.undo()
    pipeline = opened(model)
    assert torch.equal(native(pipeline, case, seed=7).frames, torch.from_numpy(plain))
    pipeline.close()


def test_video_to_video_is_that_of_plain_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.pipelines.cogvideo import pipeline_cogvideox_video2video as module

    case = replace(CASE, sampler="ddim", video=CLIP, strength=0.5, steps=6)
    pipe = CogVideoXVideoToVideoPipeline.from_pretrained(
        model_path("micro-5b"), dtype=torch.float32
    )
    pipe.scheduler = CogVideoXDDIMScheduler.from_config(pipe.scheduler.config)
    _tape_by_hand(monkeypatch)
    monkeypatch.setattr(
        module, "randn_tensor", lambda shape, **_: torch.from_numpy(standard_normal(7, 0, shape))
    )
    plain = pipe(
        video=read_clip(CLIP)[: case.frames],
        strength=0.5,
        prompt=case.prompt,
        height=case.height,
        width=case.width,
        num_inference_steps=case.steps,
        guidance_scale=case.guidance_scale,
        max_sequence_length=24,
        output_type="np",
    ).frames[0]
    monkeypatch.undo()
    pipeline = opened()
    driven = native(pipeline, case, seed=7)
    assert len(driven.steps) == case.solver_steps == 3
    assert torch.equal(driven.frames, torch.from_numpy(plain))
    pipeline.close()
