"""Where the parts of a SAT model lie on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backends.checkpoints.sat.config import ModelConfig
from backends.checkpoints.sat.yaml_reader import read_config
from backends.errors import CheckpointError


@dataclass(frozen=True)
class SatFolder:
    """Paths of one SAT model: YAML file, transformer folder, VAE file, T5 folder."""

    config: Path
    transformer: Path
    vae: Path
    text: Path


def find_parts(
    folder: Path, config: Path | None = None, text: Path | None = None
) -> tuple[SatFolder, ModelConfig]:
    """Find the parts of the SAT model in `folder` and read its YAML.

    `config` defaults to the one YAML file there that describes a model; `text` to the folder that
    it names as T5's `model_dir`, looked up by its last part in `folder`, else as an absolute
    path. Raises `CheckpointError` that says what is missing.
    """
    if not (folder / "transformer").is_dir():
        raise CheckpointError(
            f"{folder} is no SAT model: it has no `transformer/`. Expected transformer/latest,"
            " transformer/<iteration>/mp_rank_00_model_states.pt, vae/3d-vae.pt, a T5 folder and a"
            " YAML file"
        )
    chosen = config or _only_config(folder)
    settings = read_config(chosen)
    if text is None:
        named = Path(settings.text.model_dir)
        text = folder / named.name
        if not text.is_dir() and named.is_absolute():
            text = named
    if not text.is_dir():
        raise CheckpointError(
            f"the T5 folder {text} does not exist; {chosen} names {settings.text.model_dir!r}. Put it"
            f" into {folder} or set the backend's option `text_encoder` to its path"
        )
    parts = SatFolder(chosen, folder / "transformer", folder / "vae" / "3d-vae.pt", text)
    return parts, settings


def model_yamls(folder: Path) -> list[Path]:
    """The YAML files in `folder` that have a `model:` section."""
    return [p for p in sorted(folder.glob("*.y*ml")) if "model:" in p.read_text(errors="replace")]


def _only_config(folder: Path) -> Path:
    found = model_yamls(folder)
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise CheckpointError(
            f"{folder} must hold exactly one YAML file with a `model:` section, found: {names}. Copy"
            " the right one of CogVideo's sat/configs there, or set the backend's option `config`"
        )
    return found[0]
