"""A Diffusers pipeline folder of a CogVideoX model, read and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from backends.checkpoints import sidecar
from backends.checkpoints.config_keys import CONFIG_FILES, INDEX
from backends.checkpoints.diffusers.config import read_configs
from backends.checkpoints.diffusers.weight_files import (
    MODEL,
    TEXT_ENCODER,
    read_weights,
    write_weights,
)
from backends.checkpoints.report import Notice
from backends.checkpoints.sat.config import ModelConfig
from backends.checkpoints.tensors import LazyTensors
from backends.errors import CheckpointError

_PARTS = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")


@dataclass(frozen=True)
class DiffusersFolder:
    """An opened pipeline folder: its configuration in SAT's terms, and its tensors, yet unread."""

    path: Path
    config: ModelConfig
    config_texts: Mapping[str, str]
    components: Mapping[str, LazyTensors]
    kept: sidecar.Sidecar
    notices: tuple[Notice, ...]


def open_diffusers(path: Path) -> DiffusersFolder:
    """Open the pipeline at `path`; `components` have canonical names.

    Raises `CheckpointError` for missing or damaged files, `Unsupported` for other kinds of models.
    """
    texts: dict[str, str] = {}
    for name in CONFIG_FILES:
        try:
            texts[name] = (path / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(
                f"cannot read {path / name} ({error}); a Diffusers pipeline has"
                f" {', '.join(CONFIG_FILES)}. Fetch it again"
            ) from error
    config = read_configs(texts, str(path))
    known = {*_PARTS, INDEX, sidecar.NAME}
    return DiffusersFolder(
        path=path,
        config=config,
        config_texts=texts,
        components={
            "transformer": read_weights(path / "transformer", MODEL),
            "vae": read_weights(path / "vae", MODEL),
            "text_encoder": read_weights(path / "text_encoder", TEXT_ENCODER),
        },
        kept=sidecar.read_sidecar(path),
        notices=tuple(
            Notice("dropped", entry.name, "not a part of the pipeline")
            for entry in sorted(path.iterdir())
            if entry.name not in known
        ),
    )


def write_diffusers(
    path: Path, texts: Mapping[str, str], components: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Write into the folder `path` the configurations in `texts`, by file, and the weights in
    `components`; `text_encoder.py` copies T5."""
    for name, text in texts.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text, encoding="utf-8")
    for name, tensors in components.items():
        write_weights(path / name, tensors, MODEL[0])
