"""T5 and its tokenizer: one folder in SAT, two in Diffusers, with the same files in them.

Safetensors, configurations and vocabularies are copied to the byte. Weights in torch's own format
are read without running code and written as safetensors, tensor by tensor the same.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

from backends.checkpoints.diffusers.weight_files import TEXT_ENCODER, copy_weights
from backends.checkpoints.report import Notice
from backends.errors import CheckpointError

_Home = Literal["encoder", "tokenizer", "weights", "nowhere"]


def merge_text_encoder(encoder: Path, tokenizer: Path, destination: Path) -> list[Notice]:
    """Write Diffusers' folders `encoder` and `tokenizer` as SAT's one T5 folder, `destination`.

    Returns what was left out. Raises `CheckpointError` for missing or damaged weights and for a
    missing tokenizer.
    """
    notices: list[Notice] = []
    for folder, homes in ((encoder, ("encoder", "weights")), (tokenizer, ("tokenizer",))):
        if not folder.is_dir():
            raise CheckpointError(f"{folder} does not exist; the pipeline needs it, fetch it again")
        _copy(folder, destination, homes[0])
        notices += _left_out(folder, homes)
    return notices + copy_weights(encoder, destination, TEXT_ENCODER)


def split_text_encoder(folder: Path, encoder: Path, tokenizer: Path) -> list[Notice]:
    """Write SAT's T5 `folder` as Diffusers' `encoder` and `tokenizer`, as `merge_text_encoder`
    undoes."""
    _copy(folder, encoder, "encoder")
    _copy(folder, tokenizer, "tokenizer")
    if not any(tokenizer.iterdir()):
        raise CheckpointError(
            f"{folder} holds no tokenizer files; copy the tokenizer's files there"
        )
    notices = _left_out(folder, ("encoder", "tokenizer", "weights"))
    return notices + copy_weights(folder, encoder, TEXT_ENCODER)


def tokenizer_class(folder: Path) -> str:
    """The tokenizer's class as its own configuration names it; `T5Tokenizer` if it does not."""
    path = folder / "tokenizer_config.json"
    try:
        return json.loads(path.read_text()).get("tokenizer_class") or "T5Tokenizer"
    except FileNotFoundError:
        return "T5Tokenizer"
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a JSON object ({error}); fetch it again") from error


def _home(name: str) -> _Home:
    if name in ("config.json", "generation_config.json"):
        return "encoder"
    if name.endswith((".safetensors", ".bin", ".index.json")):
        return "weights"
    # What a hub adds to a folder.
    if name.startswith(".") or name.endswith(".md"):
        return "nowhere"
    return "tokenizer"


def _copy(source: Path, destination: Path, home: str) -> None:
    destination.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and _home(path.name) == home:
            shutil.copyfile(path, destination / path.name)


def _left_out(folder: Path, homes: tuple[str, ...]) -> list[Notice]:
    return [
        Notice("dropped", f"{folder.name}/{path.name}", "no weights, configuration or vocabulary")
        for path in sorted(folder.iterdir())
        if path.is_dir() or _home(path.name) not in homes
    ]
