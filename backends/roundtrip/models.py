"""Models and LoRAs brought into the form that a stack opens, in a scratch folder if need be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from backends.checkpoints import LoraModule, convert, open_lora
from backends.checkpoints.lora.diffusers import write_diffusers_lora
from backends.checkpoints.lora.lora import PREFIX, WEIGHT_NAME, A, B
from backends.checkpoints.lora.sat import LAYERS
from backends.checkpoints.report import Format
from backends.errors import CheckpointError
from backends.micro import MODELS, checkpoint_path
from backends.noise import standard_normal
from backends.roundtrip.function import Natural

RANK, ALPHA = 4, 2.0
"""Of a fresh LoRA: neither factor 1 nor 1/rank, so that a stack's own assumption shows."""


def model_folder(model: str, stack: Format, scratch: Path) -> Path:
    """The folder of `model` in the format of `stack`, converted into `scratch` if it has another."""
    folder = checkpoint_path(model)
    if not folder.is_dir():
        raise CheckpointError(
            f"no model {model!r}: expected a micro model ({', '.join(MODELS)}) or a local folder"
        )
    have: Format = "diffusers" if (folder / "model_index.json").is_file() else "sat"
    if have == stack:
        return folder.resolve()
    return convert(folder, scratch / f"model-{stack}", stack).destination


def lora_folder(lora: str | None, sizes: Natural, stack: Format, scratch: Path) -> Path:
    """The LoRA `lora` in the format of `stack`, converted into `scratch` if it has another; None makes a
    fresh one for a transformer of `sizes`, seeded, with no zeros."""
    if lora is None:
        path = scratch / "lora-fresh"
        tensors, modules = _fresh(sizes)
        write_diffusers_lora(path / WEIGHT_NAME, tensors, modules, None)
    else:
        path = checkpoint_path(lora)
    if open_lora(path).format == stack:
        return path.resolve()
    return convert(path, scratch / f"lora-{stack}", stack).destination


def overlay(model: Path, transformer: Path, folder: Path) -> Path:
    """`folder`, made a model like `model` with the folder `transformer` in place of its own, by
    links."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in model.iterdir():
        if entry.name != "transformer":
            (folder / entry.name).symlink_to(entry.resolve())
    if transformer.resolve() != (folder / "transformer").resolve():
        (folder / "transformer").symlink_to(transformer.resolve())
    return folder


def sat_base_of(model: Path, state: Mapping[str, Tensor], folder: Path) -> Path:
    """`folder`, made a model like `model` with the transformer that `state`, a SAT checkpoint of a LoRA,
    holds beside the LoRA."""
    home = folder / "transformer" / "1"
    home.mkdir(parents=True)
    module = {name: tensor for name, tensor in state.items() if ".matrix_" not in name}
    torch.save({"module": module}, home / "mp_rank_00_model_states.pt")
    (folder / "transformer" / "latest").write_text("1")
    return overlay(model, folder / "transformer", folder)


def _fresh(sizes: Natural) -> tuple[dict[str, Tensor], dict[str, LoraModule]]:
    tensors: dict[str, Tensor] = {}
    modules: dict[str, LoraModule] = {}
    for block in range(sizes.layers):
        for number, layer in enumerate(LAYERS):
            name = f"{PREFIX}transformer_blocks.{block}.attn1.{layer}"
            a = standard_normal(block, 2 * number, (RANK, sizes.hidden))
            b = standard_normal(block, 2 * number + 1, (sizes.hidden, RANK))
            tensors[name + A] = torch.from_numpy(a) / sizes.hidden**0.5
            tensors[name + B] = torch.from_numpy(b) * 0.05
            modules[name] = LoraModule(RANK, ALPHA)
    return tensors, modules
