"""What a fine-tuned folder holds, name by name, before any loader interprets it.

    diffusers pipeline    model_index.json            tensors `transformer/<key>`, `vae/<key>`, ...
    diffusers model       config.json                 tensors `transformer/<key>`
    sat model             transformer/latest          tensors as in SAT's engine, its VAE and T5 too
    sat checkpoint        latest                      tensors as in SAT's engine
    LoRA                  open_lora's formats         the file's own keys

A SAT checkpoint of a LoRA holds the model as well, and position tables are left out (`engine_names`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from backends.checkpoints import LazyTensors, open_lora
from backends.checkpoints.diffusers.weight_files import MODEL, TEXT_ENCODER, read_weights
from backends.checkpoints.lora.lora import WEIGHT_NAME
from backends.checkpoints.lora.reader import lora_file
from backends.checkpoints.opened.files import tensors_of
from backends.checkpoints.sat.checkpoint import (
    OPTIONAL_TRANSFORMER_KEYS,
    TEXT_PREFIX,
    VAE_PREFIX,
    model_states_path,
    read_tensors,
)
from backends.checkpoints.sat.layout import find_parts
from backends.checkpoints.tensors import Loader, held
from backends.checkpoints.trust import read_mapping
from backends.errors import BackendError, CheckpointError

Shape = Literal["diffusers_pipeline", "diffusers_model", "sat_model", "sat_checkpoint", "lora"]

_DIFFUSERS = {"transformer": MODEL, "vae": MODEL, "text_encoder": TEXT_ENCODER}
_TIED = ("shared.weight", "encoder.embed_tokens.weight")


@dataclass(frozen=True)
class Saved:
    """One folder: its tensors, the settings stored beside them, and copies that lie near.

    `copies` are sets of weights in sub-folders named after an EMA, with the same keys.
    """

    path: Path
    shape: Shape
    tensors: LazyTensors
    settings: Mapping[str, Any]
    copies: Mapping[str, LazyTensors]

    @property
    def stack(self) -> str:
        """ "sat" or "diffusers", by the files."""
        if self.shape == "lora":
            return "diffusers" if _diffusers_lora(self.path) else "sat"
        return self.shape.partition("_")[0]


def read_saved(path: Path) -> Saved:
    """Read `path`. Raises `CheckpointError` for something else or for damaged files."""
    if (path / "model_index.json").is_file():
        return _pipeline(path)
    if (path / "config.json").is_file():
        tensors = read_weights(path, MODEL).prefixed("transformer/")
        return Saved(path, "diffusers_model", tensors, _config(path, "transformer"), _emas(path))
    if (path / "transformer" / "latest").is_file():
        return _sat_model(path)
    if (file := _diffusers_lora(path)) is not None:
        return Saved(path, "lora", LazyTensors(tensors_of(file)), _lora_settings(path), {})
    if (path / "latest").is_file() or path.suffix == ".pt":
        state = _engine_state(path)
        lora = any("matrix_" in name for name in state)
        settings = _lora_settings(path) if lora else {}
        return Saved(
            path, "lora" if lora else "sat_checkpoint", _lazy(state), settings, _sat_emas(path)
        )
    raise CheckpointError(
        f"{path} is no folder that a fine-tune saves: expected model_index.json, config.json,"
        f" transformer/latest, latest, or {WEIGHT_NAME}"
    )


def comparable(before: Saved, after: Saved) -> tuple[LazyTensors, dict[str, Any]]:
    """The tensors and settings of `before` that `after` should hold: its components only.

    A transformer saved alone leaves VAE and T5 to the model's own files, as the stacks do.
    """
    kept = [
        name
        for name in before.tensors
        if any(component(name) == component(other) for other in after.tensors)
        or component(name) == "transformer"
    ]
    settings = {
        name: value
        for name, value in before.settings.items()
        if after.shape != "diffusers_model" or name.startswith("transformer.")
    }
    return LazyTensors({name: before.tensors.loader(name) for name in kept}), settings


def component(name: str) -> str:
    """The component that a tensor of either format belongs to."""
    if name.startswith((VAE_PREFIX, "vae/")):
        return "vae"
    if name.startswith((TEXT_PREFIX, "text_encoder/")):
        return "text_encoder"
    return "transformer"


def _pipeline(path: Path) -> Saved:
    loaders: dict[str, Loader] = {}
    settings: dict[str, Any] = {}
    for component, stems in _DIFFUSERS.items():
        part = read_weights(path / component, stems).prefixed(f"{component}/")
        loaders |= {name: part.loader(name) for name in part}
        settings |= _config(path / component, component)
    copies = _emas(path / "transformer")
    return Saved(path, "diffusers_pipeline", LazyTensors(loaders), settings, copies)


def _config(folder: Path, component: str) -> dict[str, Any]:
    """Settings of one component, without what names versions and paths."""
    ours = {"transformers_version", "dtype", "torch_dtype"}
    return {
        f"{component}.{key}": value
        for key, value in read_mapping(folder / "config.json").items()
        if not key.startswith("_") and key not in ours
    }


def _emas(folder: Path) -> dict[str, LazyTensors]:
    """Sets of weights beside or in a Diffusers model whose name says EMA."""
    homes = [*_named_ema(folder.parent), *_named_ema(folder)]
    return {
        home.name: read_weights(home, MODEL).prefixed("transformer/")
        for home in homes
        if home != folder and any(home.glob(f"{MODEL[0]}*.safetensors*"))
    }


def _sat_emas(folder: Path) -> dict[str, LazyTensors]:
    found = {
        home.name: home / "mp_rank_00_model_states.pt"
        for home in (_named_ema(folder) if folder.is_dir() else ())
    }
    return {
        name: _lazy(engine_names(read_tensors(file, "module")))
        for name, file in found.items()
        if file.is_file()
    }


def _named_ema(folder: Path) -> Iterator[Path]:
    return (p for p in sorted(folder.iterdir()) if p.is_dir() and "ema" in p.name.lower())


def _sat_model(path: Path) -> Saved:
    parts, _ = find_parts(path)
    vae = read_tensors(parts.vae, "state_dict")
    text = dict(read_weights(parts.text, TEXT_ENCODER))
    for have, lack in (_TIED, _TIED[::-1]):
        if have in text and lack not in text:
            text[lack] = text[have]
    state = {VAE_PREFIX + name: tensor for name, tensor in vae.items()}
    state |= {TEXT_PREFIX + name: tensor for name, tensor in text.items()}
    state |= _engine_state(parts.transformer)
    return Saved(path, "sat_model", _lazy(state), {}, _sat_emas(parts.transformer))


def _engine_state(path: Path) -> dict[str, Tensor]:
    file = path if path.is_file() else model_states_path(path)
    return engine_names(read_tensors(file, "module"))


def engine_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A SAT engine's tensors under the names that they have without LoRA, without computed tables.

    A position embedding is learned where the model has rotary tables besides, else computed.
    """
    tables = tuple(OPTIONAL_TRANSFORMER_KEYS)
    if not any("pos_embed.freqs_" in name for name in state):
        tables += ("mixins.pos_embed.pos_embedding",)
    kept = {name: tensor for name, tensor in state.items() if not name.endswith(tables)}
    return {name.replace(".original.", "."): tensor for name, tensor in kept.items()}


def _diffusers_lora(path: Path) -> Path | None:
    """The safetensors file of a LoRA in Diffusers' format."""
    found = None if (path / "latest").is_file() else lora_file(path)
    return found if found is not None and found.suffix == ".safetensors" else None


def _lora_settings(path: Path) -> dict[str, Any]:
    """Rank and factor of each layer as a loader would take them, or why no loader can."""
    try:
        lora = open_lora(path)
    except BackendError as error:
        return {"lora": f"not readable: {error}"}
    factors = {m.scaling for m in lora.modules.values()}
    ranks = {m.rank for m in lora.modules.values()}
    if len(factors) == len(ranks) == 1:
        return {"lora.rank": ranks.pop(), "lora.factor": factors.pop()}
    return {
        f"lora.{what} {name}": value
        for name, module in lora.modules.items()
        for what, value in (("rank", module.rank), ("factor", module.scaling))
    }


def _lazy(state: Mapping[str, Tensor]) -> LazyTensors:
    return LazyTensors({name: held(tensor) for name, tensor in state.items()})
