"""Write trained parts as Diffusers pipeline folders, stored in bfloat16."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
from pathlib import Path

import torch
from torch import nn

from tests.micro.training.kinds import Kind, build_scheduler
from tests.micro.training.stack import Vae, diffusers
from tests.micro.training.text import copy_tokenizer, load_tokenizer
from tests.micro.training.transformer_stage import Trained

LOUD_BLOCK, LOUD_POWER = 2, 18
"""The block whose attention values are scaled by 2^18: far past fp16's 65504, exact in bf16 and fp32."""

SHARED = ("vae", "text_encoder", "tokenizer")
"""Components that a derived model has in common with the model at the head of its line."""


@torch.no_grad()
def push_past_fp16(transformer: nn.Module, power: int = LOUD_POWER) -> None:
    """Scale one value projection up, and the output projection behind it down, by 2^power.

    The function is unchanged to the bit wherever the exponent range of bfloat16 is at hand; in
    float16 the values overflow. So the weights need what the real 1.5-5B model is known to need.
    `-LOUD_POWER` takes it back, for training to go on from stored weights.
    """
    attention = transformer.get_submodule(f"transformer_blocks.{LOUD_BLOCK}.attn1")
    factor = 2.0**power
    attention.get_parameter("to_v.weight").mul_(factor)
    attention.get_parameter("to_v.bias").mul_(factor)
    attention.get_parameter("to_out.0.weight").mul_(1 / factor)


def write_pipeline(kind: Kind, vae: Vae, trained: Trained, tokenizer: Path, root: Path) -> Path:
    """Write `root/<kind.name>`; it replaces an older one in one move."""
    vae.register_to_config(
        scaling_factor=kind.scaling_factor, invert_scale_latents=kind.invert_scale_latents
    )
    parts = {
        "text_encoder": trained.text_encoder.to(torch.bfloat16),
        "vae": vae.to(torch.bfloat16),
        "transformer": trained.transformer.to(torch.bfloat16),
    }
    if kind.rotary:
        push_past_fp16(trained.transformer)
    name = "CogVideoXImageToVideoPipeline" if kind.image else "CogVideoXPipeline"
    pipeline = getattr(diffusers, name)(
        tokenizer=load_tokenizer(tokenizer), scheduler=build_scheduler(kind), **parts
    )
    fresh, final = root / f".{kind.name}", root / kind.name
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline.save_pretrained(str(fresh))
    _forget_origin(fresh / "vae" / "config.json")
    copy_tokenizer(tokenizer, fresh / "tokenizer")
    shutil.rmtree(final, ignore_errors=True)
    fresh.rename(final)
    if kind.parent is not None:
        _link_equal_files(final, root / kind.parent)
    return final


def _forget_origin(config: Path) -> None:
    """Remove the path that Diffusers notes in what it loaded from a folder."""
    settings = json.loads(config.read_text())
    settings.pop("_name_or_path", None)
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def _link_equal_files(folder: Path, other: Path) -> None:
    """Replace what `folder` repeats of `other`'s shared components by relative links to it."""
    for part in SHARED:
        for file in sorted((folder / part).iterdir()):
            twin = other / part / file.name
            if twin.is_file() and filecmp.cmp(file, twin, shallow=False):
                target = os.path.relpath(twin.resolve(), file.parent)
                file.unlink()
                file.symlink_to(target)
