"""Where a model comes from: a SAT folder, or a Diffusers folder read through the name mapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from backends.checkpoints.diffusers.folder import open_diffusers
from backends.checkpoints.mapping import transformer_table, vae_table
from backends.checkpoints.sat import checkpoint
from backends.checkpoints.sat.config import ModelConfig
from backends.checkpoints.sat.layout import find_parts
from backends.errors import CheckpointError


@dataclass(frozen=True)
class ModelSource:
    """A model's settings and tensors, under SAT's names, and the folders of its text encoder.

    `text_encoder` holds tensors that take precedence over `encoder_folder`; usually none.
    `optional` are transformer keys that may be absent, because the config implies them or nothing
    reads them.
    """

    where: str
    config: ModelConfig
    transformer: Mapping[str, Tensor]
    vae: Mapping[str, Tensor]
    text_encoder: Mapping[str, Tensor]
    encoder_folder: Path
    tokenizer_folder: Path
    optional: frozenset[str]


def open_source(folder: Path, config: Path | None, text_encoder: Path | None) -> ModelSource:
    """The model in `folder`, SAT or Diffusers. Raises `CheckpointError`, `Unsupported`.

    `config` and `text_encoder` name another YAML file and another T5 folder for a SAT model.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a folder; expected a SAT model, a Diffusers pipeline, or the name of a"
            " micro model. Name one in the case's `model` or in the backend's option `checkpoint`"
        )
    if (folder / "model_index.json").is_file():
        if config or text_encoder:
            raise CheckpointError(
                f"{folder} is a Diffusers pipeline, for which the options `config` and"
                " `text_encoder` mean nothing; remove them or name a SAT folder"
            )
        return _diffusers_source(folder)
    return _sat_source(folder, config, text_encoder)


def _sat_source(folder: Path, config: Path | None, text_encoder: Path | None) -> ModelSource:
    parts, settings = find_parts(folder, config, text_encoder)
    path = checkpoint.model_states_path(parts.transformer)
    states = checkpoint.read_tensors(path, "module")
    transformer, vae, text = checkpoint.split_components(states, path)
    stored = checkpoint.without_loss(checkpoint.read_tensors(parts.vae, "state_dict"))
    return ModelSource(
        where=str(folder),
        config=settings,
        transformer=transformer,
        vae={**stored, **vae},
        text_encoder=text,
        encoder_folder=parts.text,
        tokenizer_folder=parts.text,
        optional=checkpoint.OPTIONAL_TRANSFORMER_KEYS,
    )


def _diffusers_source(folder: Path) -> ModelSource:
    opened = open_diffusers(folder)
    parts, config = opened.components, opened.config
    return ModelSource(
        where=str(folder),
        config=config,
        transformer=transformer_table(config.transformer).to_sat(parts["transformer"]),
        vae=vae_table(config.vae).to_sat(parts["vae"]),
        text_encoder={},
        encoder_folder=folder / "text_encoder",
        tokenizer_folder=folder / "tokenizer",
        optional=checkpoint.OPTIONAL_TRANSFORMER_KEYS | {"mixins.pos_embed.pos_embedding"},
    )
