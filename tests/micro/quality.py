"""How good the embedded micro models are, measured: `python -m tests.micro.quality`.

Required: VAE reconstruction of unseen clips >= 28 dB; over the prompts, at 50 steps, colour and
direction right >= 90 %, background right >= 95 %. Image-to-video: the first frame equals the picture to
>= 25 dB (pooled over all renders), and the direction is that of the prompt although the picture, a
shape in the middle of the frame, does not tell it. Exits 1 where a requirement does not hold.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXImageToVideoPipeline, CogVideoXPipeline
from numpy.typing import NDArray
from PIL import Image

from backends.micro import MODELS, model_path
from backends.noise import standard_normal
from tests.micro.training.clips import captions, draw, scene_from_middle
from tests.micro.training.kinds import KINDS
from tests.micro.training.measure import look
from tests.micro.training.vae_stage import EVALUATION_SEED, psnr_db

REQUIRED = {"colour": 0.90, "direction": 0.90, "background": 0.95}
LEAST_VAE_DB = 28.0
LEAST_FIRST_FRAME_DB = 25.0
BATCH = 8


def vae_psnr_db(model: str, clips: int, frames: int) -> float:
    """Mean PSNR of unseen clips through the stored VAE, computed in float32."""
    vae = AutoencoderKLCogVideoX.from_pretrained(
        model_path(model), subfolder="vae", torch_dtype=torch.float32
    )
    return psnr_db(vae, clips, frames)


def accuracy(model: str, prompts: int, steps: int) -> dict[str, float]:
    """Share of prompts whose render shows the colour, direction and background that it names.

    Prompts are spread evenly over all captions; for image-to-video they are those of unseen scenes.
    Prompt i uses noise seed i. `first_frame_db` is there for image-to-video only.
    """
    kind = KINDS[model]
    pipeline = CogVideoXImageToVideoPipeline if kind.image else CogVideoXPipeline
    pipe = pipeline.from_pretrained(model_path(model), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    right, squares = dict.fromkeys(REQUIRED, 0), list[float]()
    for start in range(0, prompts, BATCH):
        batch = range(start, min(start + BATCH, prompts))
        words, pictures = _asked(kind.image, batch)
        latent_frames = 6 if kind.patch_frames else 5
        noise = [standard_normal(i, 0, (latent_frames, 16, 8, 8)) for i in batch]
        given: dict[str, Any] = {"image": [Image.fromarray(p) for p in pictures]}
        videos = pipe(
            prompt=words,
            num_frames=17,
            height=64,
            width=64,
            num_inference_steps=steps,
            guidance_scale=6.0,
            use_dynamic_cfg=kind.sampler == "dpm",
            latents=torch.from_numpy(np.stack(noise)),
            generator=[torch.Generator().manual_seed(i) for i in batch],
            output_type="np",
            max_sequence_length=24,
            **(given if kind.image else {}),
        ).frames
        for video, prompt in zip(videos, words, strict=True):
            seen, said = look(np.asarray(video, dtype=np.float32)), prompt.split()
            right["colour"] += seen.colour == said[1]
            right["direction"] += seen.direction == said[4]
            right["background"] += seen.background == said[7]
        firsts = zip(videos, pictures, strict=kind.image)
        squares += [float(((video[0] - p / 255) ** 2).mean()) for video, p in firsts]
    found = {name: count / prompts for name, count in right.items()}
    if squares:
        found["first_frame_db"] = float(-10 * np.log10(np.mean(squares)))
        found["worst_first_frame_db"] = float(-10 * np.log10(np.max(squares)))
    return found


def _asked(image: bool, batch: range) -> tuple[list[str], list[NDArray[np.uint8]]]:
    """Prompts, and for image-to-video their pictures (H, W, 3)."""
    if not image:
        every = captions()
        return [every[(i * 97) % len(every)] for i in batch], []
    scenes = [scene_from_middle(EVALUATION_SEED + i) for i in batch]
    pictures = [np.rint(draw(one)[0] * 255).astype(np.uint8) for one in scenes]
    return [one.caption for one in scenes], pictures


def main(arguments: list[str]) -> int:
    """Print one line a requirement; return 0 if all hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--prompts", type=int, default=120)
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args(arguments)
    held: list[bool] = []

    def report(what: str, value: float, least: float, unit: str) -> None:
        held.append(value >= least)
        line = f"{what}: {value:.2f}{unit}, required {least:.2f} {'ok' if held[-1] else 'MISSED'}"
        print(line, flush=True)

    for model in args.models:
        for frames in (9, 17, 25) if KINDS[model].parent is None else ():
            required = LEAST_VAE_DB if frames == 17 else 0.0
            report(f"{model} VAE, {frames} frames", vae_psnr_db(model, 32, frames), required, " dB")
        started = time.perf_counter()
        found = accuracy(model, args.prompts, args.steps)
        for name, share in REQUIRED.items():
            report(f"{model} {name}", 100 * found[name], 100 * share, " %")
        if "first_frame_db" in found:
            least = LEAST_FIRST_FRAME_DB
            report(f"{model} first frame, pooled", found["first_frame_db"], least, " dB")
            report(f"{model} first frame, worst", found["worst_first_frame_db"], 0.0, " dB")
        seconds = (time.perf_counter() - started) / args.prompts
        print(f"{model}: {seconds:.2f} s a render of 17 frames, {args.steps} steps")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
