"""Train the embedded micro models: `python -m tests.micro.training.train --work FOLDER`.

    clips -> VAE -> normalised, bfloat16 -> latents -> transformer + T5, each kind -> folders
    a parent's folder -> latents with pictures, text embeddings -> transformer -> derived folders

Finished stages are kept in the work folder and not repeated. `TRAINING.md` says what the committed
weights were made with.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from backends.micro import model_path
from tests.micro.training.assemble import LOUD_POWER, push_past_fp16, write_pipeline
from tests.micro.training.clips import captions
from tests.micro.training.derived_stage import DerivedStretch, TextTable, train_derived
from tests.micro.training.growth import grow
from tests.micro.training.image_latents import ImageLatents, encode_with_images
from tests.micro.training.kinds import KINDS, Kind, build_transformer
from tests.micro.training.stack import Vae, diffusers, transformers
from tests.micro.training.text import build_text_encoder, load_tokenizer, token_ids, write_tokenizer
from tests.micro.training.transformer_stage import (
    Latents,
    Stretch,
    Trained,
    encode_clips,
    train_transformer,
)
from tests.micro.training.vae_stage import Phase, build_vae, normalise_latents, psnr_db, train_vae

LATENT_STD = 1 / 1.15258426
"""So that micro-2b's scaling factor gives unit variance, as the real 2B's does."""

INITIAL_SEED = 67280421310721
"""torch's own default seed, which the committed weights were initialised from."""


DERIVED_CLIPS = 664, 240
"""Training clips of the derived models: those that cross the frame, those that start in its middle."""

DERIVED_STRETCHES = {
    "micro-5b-i2v": [
        DerivedStretch(300, 0.002, 100, 2),
        DerivedStretch(250, 0.003, 50, 252, first_weight=4.0, noisy_share=0.5),
        DerivedStretch(400, 0.003, 50, 552, first_weight=4.0, guided_weight=0.5),
    ],
    "micro-1.5-5b": [DerivedStretch(600, 0.003, 100, 3)],
    "micro-1.5-5b-i2v": [
        DerivedStretch(300, 0.002, 100, 4),
        DerivedStretch(250, 0.003, 50, 254, first_weight=4.0, noisy_share=0.5),
        DerivedStretch(500, 0.003, 50, 554, 6.0, guided_weight=0.5, padding_weight=0.03),
        DerivedStretch(1200, 0.003, 50, 1054, 1.0, guided_weight=0.3, padding_weight=0.03),
        DerivedStretch(1500, 0.003, 50, 2254, 1.0, 0.3, guided_weight=0.3, padding_weight=0.03),
    ],
}

STRETCHES = {
    "micro-2b": [Stretch(False, 1000, 4000, 0.0015), Stretch(True, 2500, 2500, 0.003)],
    "micro-5b": [Stretch(False, 1500, 4000, 0.0015), Stretch(True, 2500, 2500, 0.003)],
}


def _log(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def vae_stage(work: Path) -> Vae:
    """The trained VAE, rounded to bfloat16, as float32."""
    path, vae = work / "vae.pt", build_vae()
    if path.exists():
        vae.load_state_dict(torch.load(path, weights_only=True))
        return vae
    torch.manual_seed(INITIAL_SEED)
    vae = build_vae()
    # Position is learnt first, contrast next, colour last: a short look at many small clips pays.
    train_vae(vae, [Phase(400, 32, 9, 8)], 0.005, 2200, 0, _log)
    train_vae(vae, [Phase(200, 48, 9, 6), Phase(500, 64, 17, 2)], 0.004, 700, 1, _log)
    normalise_latents(vae, LATENT_STD)
    vae.to(torch.bfloat16).to(torch.float32)
    for frames in (9, 17, 25):
        _log(f"psnr {psnr_db(vae, frames=frames):.2f} dB (64x64x{frames}, 16 unseen clips)")
    torch.save(vae.state_dict(), path)
    return vae


def latents_stage(work: Path, vae: Vae, clips: int) -> Latents:
    """The training clips, encoded once."""
    path = work / "latents.pt"
    if path.exists():
        kept = torch.load(path, weights_only=True)
        return Latents(kept["z"], kept["captions"])
    latents = encode_clips(vae, clips, _log)
    torch.save({"z": latents.z, "captions": latents.captions}, path)
    return latents


def transformer_stage(work: Path, kind: Kind, latents: Latents, tokenizer: Path) -> Trained:
    """The trained transformer and text encoder of one kind."""
    path = work / f"{kind.name}.pt"
    if path.exists():
        kept = torch.load(path, weights_only=True)
        trained = Trained(build_transformer(kind), build_text_encoder())
        trained.transformer.load_state_dict(kept["transformer"])
        trained.text_encoder.load_state_dict(kept["text_encoder"])
        return trained
    trained = train_transformer(
        kind, latents, load_tokenizer(tokenizer), STRETCHES[kind.name], _log
    )
    kept = {
        "transformer": trained.transformer.state_dict(),
        "text_encoder": trained.text_encoder.state_dict(),
    }
    torch.save(kept, path)
    return trained


def image_latents_stage(work: Path, vae: Vae) -> ImageLatents:
    """The training clips of the derived models with their pictures, encoded once."""
    path = work / "image_latents.pt"
    if path.exists():
        return ImageLatents(**torch.load(path, weights_only=True))
    latents = encode_with_images(vae, *DERIVED_CLIPS, _log)
    torch.save(vars(latents), path)
    return latents


def derived_stage(work: Path, kind: Kind, parent: Path) -> tuple[Vae, Trained]:
    """The trained transformer of a derived kind, with its parent's VAE and text encoder."""
    float32 = {"torch_dtype": torch.float32}
    vae = diffusers.AutoencoderKLCogVideoX.from_pretrained(str(parent / "vae"), **float32)
    text_encoder = transformers.T5EncoderModel.from_pretrained(
        str(parent / "text_encoder"), **float32
    )
    start = diffusers.CogVideoXTransformer3DModel.from_pretrained(
        str(parent / "transformer"), **float32
    )
    push_past_fp16(start, -LOUD_POWER)
    torch.manual_seed(kind.seed)
    transformer = grow(kind, start)
    latents = image_latents_stage(work, vae)
    words = captions()
    with torch.no_grad():
        ids = token_ids(load_tokenizer(parent / "tokenizer"), ["", *words])
        embedded: torch.Tensor = text_encoder(ids)[0]
    text = TextTable({word: row for row, word in enumerate(words)}, embedded[1:], embedded[:1])
    for index, stretch in enumerate(DERIVED_STRETCHES[kind.name]):
        path = work / f"{kind.name}.{index}.pt"
        if path.exists():
            transformer.load_state_dict(torch.load(path, weights_only=True))
            continue
        _log(f"{kind.name} {stretch}")
        train_derived(kind, transformer, latents, text, stretch, _log)
        torch.save(transformer.state_dict(), path)
    return vae, Trained(transformer, text_encoder)


def main(arguments: list[str]) -> None:
    """Run every stage that the work folder lacks, then write the pipeline folders."""
    parser = argparse.ArgumentParser(description="Train the embedded micro models.")
    parser.add_argument("--work", type=Path, required=True, help="keeps finished stages")
    parser.add_argument("--out", type=Path, default=model_path("micro-2b").parent)
    parser.add_argument(
        "--clips", type=int, default=1600, help="training clips for the transformers"
    )
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    args = parser.parse_args(arguments)
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_flush_denormal(True)  # subnormal gradients are ten times slower and teach nothing
    for name in args.kinds:
        kind = KINDS[name]
        if kind.parent is not None:
            tokenizer = args.out / kind.parent / "tokenizer"
            vae, trained = derived_stage(args.work, kind, args.out / kind.parent)
        else:
            tokenizer = args.work / "tokenizer"
            if not tokenizer.exists():
                write_tokenizer(tokenizer)
            vae = vae_stage(args.work)
            latents = latents_stage(args.work, vae, args.clips)
            trained = transformer_stage(args.work, kind, latents, tokenizer)
        _log(f"wrote {write_pipeline(kind, vae, trained, tokenizer, args.out)}")


if __name__ == "__main__":
    main(sys.argv[1:])
