"""Opening a LoRA of either format."""

from __future__ import annotations

from pathlib import Path

from backends.checkpoints.lora.diffusers import open_diffusers_lora
from backends.checkpoints.lora.lora import WEIGHT_NAME, Lora
from backends.checkpoints.lora.sat import open_sat_lora
from backends.errors import CheckpointError

_SHOWN = 4


def open_lora(path: Path) -> Lora:
    """Open the LoRA at `path`, a file or a folder of either format.

    Diffusers: a safetensors file, or a folder with `pytorch_lora_weights.safetensors` or one other.
    SAT: `mp_rank_00_model_states.pt`, or a folder with `latest`. Raises `CheckpointError` naming
    what is missing, damaged, or not a LoRA of a CogVideoX transformer; `Unsupported` for DoRA and
    biases.
    """
    if (file := _diffusers_file(path)) is not None:
        return open_diffusers_lora(file)
    if path.suffix == ".pt" or (path / "latest").is_file():
        return open_sat_lora(path)
    there = sorted(p.name for p in path.iterdir())[:_SHOWN] if path.is_dir() else []
    found = f"a folder with {', '.join(there) or 'nothing'}" if path.is_dir() else "no folder"
    raise CheckpointError(
        f"no LoRA at {path}: expected {WEIGHT_NAME} or one other safetensors file (Diffusers), or"
        f" `latest` with mp_rank_00_model_states.pt (SAT), found {found}"
    )


def is_lora(path: Path) -> bool:
    """Whether `path` looks like a LoRA rather than a whole model; nothing is read."""
    if path.is_file():
        return path.suffix in (".safetensors", ".pt")
    whole = (path / "model_index.json").is_file() or (path / "transformer").is_dir()
    return not whole and (_diffusers_file(path) is not None or (path / "latest").is_file())


def _diffusers_file(path: Path) -> Path | None:
    if path.suffix == ".safetensors" and path.is_file():
        return path
    if not path.is_dir():
        return None
    if (path / WEIGHT_NAME).is_file():
        return path / WEIGHT_NAME
    found = sorted(path.glob("*.safetensors"))
    return found[0] if len(found) == 1 and not (path / "config.json").is_file() else None
