"""A tiny model in float32, and ways to alter what was saved of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_pipelines import Kind, tiny_transformer, tiny_vae
from torch import Tensor
from transformers import T5Config, T5EncoderModel, T5Tokenizer

Tensors = dict[str, Tensor]
Alter = Callable[[Tensors], Tensors]


def save_tiny(folder: Path, **changes: Any) -> Path:
    """Like the real ones in topology; weights as torch and Diffusers initialise them."""
    torch.manual_seed(0)
    letters = [(letter, -2.0) for letter in "▁abcdefghijklmnopqrstuvwxyz,."]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters]
    t5 = T5Config(
        vocab_size=32, d_model=64, d_kv=16, d_ff=64, num_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    CogVideoXPipeline(
        tokenizer=T5Tokenizer(vocab=vocabulary, extra_ids=0),
        text_encoder=T5EncoderModel(t5),
        vae=tiny_vae(Kind()),
        transformer=tiny_transformer(Kind(), **changes),
        scheduler=CogVideoXDDIMScheduler(
            snr_shift_scale=1.0,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            clip_sample=False,
        ),
    ).save_pretrained(folder)
    return folder


def altered(before: Path, after: Path, alter: Alter) -> Path:
    """A copy of a saved folder whose transformer or LoRA went through `alter`."""
    shutil.copytree(before, after)
    for file in weight_files(after):
        rewrite(file, file, alter)
    return after


def weight_files(folder: Path) -> list[Path]:
    found = [
        *folder.rglob("mp_rank_00_model_states.pt"),
        *folder.glob("transformer/*.safetensors"),
        *folder.glob("pytorch_lora*.safetensors"),
    ]
    assert found
    return found


def rewrite(source: Path, target: Path, alter: Alter) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".pt":
        state = torch.load(source, weights_only=True)["module"]
        torch.save({"module": alter(state)}, target)
        return
    with safe_open(source, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    content = {name: tensor.contiguous() for name, tensor in alter(state).items()}
    save_file(content, target, metadata=metadata)


def through_bf16(tensors: Tensors) -> Tensors:
    return {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}


def through_bf16_and_back(tensors: Tensors) -> Tensors:
    return {name: tensor.to(torch.bfloat16).to(tensor) for name, tensor in tensors.items()}


def averaged(tensors: Tensors) -> Tensors:
    """As an EMA that did not start from these weights."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: tensor + 0.02 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in tensors.items()
    }
