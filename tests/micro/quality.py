"""How good the embedded micro models are, measured: `python -m tests.micro.quality`.

Required: VAE reconstruction of unseen clips >= 28 dB; over the prompts, at 50 steps, colour and
direction right >= 90 %, background right >= 95 %. Exits 1 where a requirement does not hold.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline

from backends.micro import MODELS, model_path
from backends.micro.clips import captions
from backends.micro.measure import look
from backends.micro.vae_stage import psnr_db
from backends.noise import standard_normal

REQUIRED = {"colour": 0.90, "direction": 0.90, "background": 0.95}
LEAST_VAE_DB = 28.0


def vae_psnr_db(model: str, clips: int, frames: int) -> float:
    """Mean PSNR of unseen clips through the stored VAE, computed in float32."""
    vae = AutoencoderKLCogVideoX.from_pretrained(
        model_path(model), subfolder="vae", torch_dtype=torch.float32
    )
    return psnr_db(vae, clips, frames)


def accuracy(model: str, prompts: int, steps: int) -> dict[str, float]:
    """Share of prompts whose render shows the colour, direction and background that it names.

    Prompts are spread evenly over all captions; prompt i uses noise seed i.
    """
    pipe = CogVideoXPipeline.from_pretrained(model_path(model), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    every = captions()
    right = dict.fromkeys(REQUIRED, 0)
    for i in range(prompts):
        prompt = every[(i * 97) % len(every)]
        latents = torch.from_numpy(standard_normal(i, 0, (1, 5, 16, 8, 8)))
        frames = pipe(
            prompt,
            num_frames=17,
            height=64,
            width=64,
            num_inference_steps=steps,
            guidance_scale=6.0,
            use_dynamic_cfg=model == "micro-5b",
            latents=latents,
            generator=torch.Generator().manual_seed(i),
            output_type="np",
            max_sequence_length=24,
        ).frames[0]
        seen, words = look(np.asarray(frames, dtype=np.float32)), prompt.split()
        right["colour"] += seen.colour == words[1]
        right["direction"] += seen.direction == words[4]
        right["background"] += seen.background == words[7]
    return {name: count / prompts for name, count in right.items()}


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
        print(f"{what}: {value:.2f}{unit}, required {least:.2f} {'ok' if held[-1] else 'MISSED'}")

    for model in args.models:
        for frames in (9, 17, 25):
            required = LEAST_VAE_DB if frames == 17 else 0.0
            report(f"{model} VAE, {frames} frames", vae_psnr_db(model, 32, frames), required, " dB")
        started = time.perf_counter()
        for name, share in accuracy(model, args.prompts, args.steps).items():
            report(f"{model} {name}", 100 * share, 100 * REQUIRED[name], " %")
        seconds = (time.perf_counter() - started) / args.prompts
        print(f"{model}: {seconds:.2f} s a render of 17 frames, {args.steps} steps")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
