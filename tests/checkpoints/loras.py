"""LoRAs for tests, in Diffusers' format and in SAT's, written by hand and not by the code tested."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

LAYERS = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0")


def lora_tensors(
    width: int = 128,
    blocks: Iterable[int] = (0, 1),
    rank: int = 4,
    layers: tuple[str, ...] = LAYERS,
    dtype: torch.dtype = torch.float32,
    size: float = 0.1,
) -> dict[str, Tensor]:
    """Random matrices under Diffusers' names, large enough to be seen in any output."""
    generator = torch.Generator().manual_seed(5)

    def some(*shape: int) -> Tensor:
        return (size * torch.randn(shape, generator=generator)).to(dtype)

    tensors: dict[str, Tensor] = {}
    for block in blocks:
        for layer in layers:
            name = f"transformer.transformer_blocks.{block}.{layer}"
            tensors[f"{name}.lora_A.weight"] = some(rank, width)
            tensors[f"{name}.lora_B.weight"] = some(width, rank)
    return tensors


def header(**settings: Any) -> dict[str, str]:
    """The metadata of a file that Diffusers wrote with PEFT's settings."""
    settings = {"target_modules": ["to_q", "to_k", "to_v", "to_out.0"]} | settings
    prefixed = {f"transformer.{key}": value for key, value in settings.items()}
    return {"format": "pt", "lora_adapter_metadata": json.dumps(prefixed, indent=2, sort_keys=True)}


def save_lora(
    folder: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "pytorch_lora_weights.safetensors", metadata or {"format": "pt"})
    return folder


def sat_lora(
    folder: Path, tensors: dict[str, Tensor], config: str | None = None, beside: bool = False
) -> Path:
    """The same LoRA as SAT saves it; with `beside`, next to a tensor of the model."""
    places = {
        "to_q": ("query_key_value", 0),
        "to_k": ("query_key_value", 1),
        "to_v": ("query_key_value", 2),
        "to_out": ("dense", 0),
    }
    module: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        layer, part = places[parts[4]]
        matrix = "A" if "lora_A" in name else "B"
        key = f"transformer.layers.{parts[2]}.attention.{layer}.matrix_{matrix}.{part}"
        module[f"model.diffusion_model.{key}"] = tensor
    if beside:
        original = "model.diffusion_model.transformer.layers.0.attention.dense.original.weight"
        module[original] = torch.zeros(2, 2)
    (folder / "7").mkdir(parents=True)
    torch.save({"module": module}, folder / "7" / "mp_rank_00_model_states.pt")
    (folder / "latest").write_text("7")
    if config is not None:
        (folder / "training_config.yaml").write_text(config)
    return folder


def sat_yaml(**params: Any) -> str:
    lines = "".join(f"            {key}: {value}\n" for key, value in params.items())
    return (
        "model:\n  network_config:\n    params:\n      modules:\n        lora_config:\n"
        f"          target: sat.model.finetune.lora2.LoraMixin\n          params:\n{lines}"
    )
