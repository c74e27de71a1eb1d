"""Write trained parts as Diffusers pipeline folders, stored in bfloat16."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import nn

from backends.micro.kinds import Kind, build_scheduler
from backends.micro.stack import Vae, diffusers
from backends.micro.text import copy_tokenizer, load_tokenizer
from backends.micro.transformer_stage import Trained

LOUD_BLOCK, LOUD_POWER = 2, 18
"""The block whose attention values are scaled by 2^18: far past fp16's 65504, exact in bf16 and fp32."""


@torch.no_grad()
def push_past_fp16(transformer: nn.Module) -> None:
    """Scale one value projection up, and the output projection behind it down, by a power of two.

    The function is unchanged to the bit wherever the exponent range of bfloat16 is at hand; in
    float16 the values overflow. So the weights need what the real 1.5-5B model is known to need.
    """
    attention = transformer.get_submodule(f"transformer_blocks.{LOUD_BLOCK}.attn1")
    factor = 2.0**LOUD_POWER
    attention.get_parameter("to_v.weight").mul_(factor)
    attention.get_parameter("to_v.bias").mul_(factor)
    attention.get_parameter("to_out.0.weight").mul_(1 / factor)


def write_pipeline(kind: Kind, vae: Vae, trained: Trained, tokenizer: Path, root: Path) -> Path:
    """Write `root/<kind.name>`; it replaces an older one in one move."""
    vae.register_to_config(scaling_factor=kind.scaling_factor)
    parts = {
        "text_encoder": trained.text_encoder.to(torch.bfloat16),
        "vae": vae.to(torch.bfloat16),
        "transformer": trained.transformer.to(torch.bfloat16),
    }
    if kind.rotary:
        push_past_fp16(trained.transformer)
    pipeline = diffusers.CogVideoXPipeline(
        tokenizer=load_tokenizer(tokenizer), scheduler=build_scheduler(kind), **parts
    )
    fresh, final = root / f".{kind.name}", root / kind.name
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline.save_pretrained(str(fresh))
    copy_tokenizer(tokenizer, fresh / "tokenizer")
    shutil.rmtree(final, ignore_errors=True)
    fresh.rename(final)
    return final
