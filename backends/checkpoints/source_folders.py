"""Model folders of either kind, and folders of one component, opened for comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backends.checkpoints.source import Source, SourceKind, Stored, as_stored
from backends.checkpoints.source_configs import diffusers_settings, sat_settings
from backends.checkpoints.source_files import (
    canonical,
    component_of,
    split_prefixes,
    split_tables,
    tensors_of,
)
from backends.checkpoints.tensors import Loader
from backends.checkpoints.weight_files import MODEL, TEXT_ENCODER, read_weights
from backends.errors import BackendError, CheckpointError
from backends.sat.checkpoint import model_states_path
from backends.sat.config import TransformerConfig
from backends.sat.yaml_reader import read_config

_STEMS = {"transformer": MODEL, "vae": MODEL, "text_encoder": TEXT_ENCODER}
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.safetensors.index.json")


def open_folder(path: Path) -> Source:
    """Open the model or component in `path`. Raises `CheckpointError` where there is none."""
    if (path / "model_index.json").is_file() or any(
        (path / name / "config.json").is_file() for name in _STEMS
    ):
        return _diffusers(path)
    if (path / "transformer" / "latest").is_file() or (path / "latest").is_file():
        return _sat(path)
    if any(path.glob(pattern) and list(path.glob(pattern)) for pattern in _WEIGHTS):
        return _component(path)
    there = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
    raise CheckpointError(
        f"{path} holds no checkpoint: expected a Diffusers pipeline (model_index.json), a SAT model"
        f" (transformer/latest) or one component's weights, found {there}"
    )


def _diffusers(path: Path) -> Source:
    tensors: dict[str, Stored] = {}
    remarks: list[str] = []
    for component, stems in _STEMS.items():
        if not (path / component).is_dir():
            remarks.append(f"{path / component} does not exist")
            continue
        try:
            weights = read_weights(path / component, stems)
        except CheckpointError as error:
            remarks.append(str(error))
            continue
        loaders = {name: weights.loader(name) for name in weights}
        tensors |= {
            s.name: s for n, load in loaders.items() for s in [as_stored(component, n, load)]
        }
    return _source(path, "diffusers", tensors, diffusers_settings(path), {}, remarks)


def _component(path: Path) -> Source:
    """A folder such as `transformer/`: weights, and perhaps `config.json`."""
    loaders: dict[str, Loader] = {}
    for stems in (MODEL, TEXT_ENCODER):
        try:
            weights = read_weights(path, stems)
        except CheckpointError:
            continue
        loaders = {name: weights.loader(name) for name in weights}
        break
    if not loaders:
        files = [
            file for pattern in ("*.safetensors", "*.pt", "*.bin") for file in path.glob(pattern)
        ]
        if len(files) != 1:
            names = ", ".join(sorted(file.name for file in files))
            raise CheckpointError(f"{path} holds several weight files ({names}); name one of them")
        loaders = tensors_of(files[0])
    component = component_of(loaders)
    settings: dict[str, Any] | None = None
    if (path / "config.json").is_file():
        values = json.loads((path / "config.json").read_text(encoding="utf-8"))
        settings = {f"{component}.{key}": value for key, value in values.items()}
    tensors = canonical(component, loaders)
    return _source(path, "file", tensors, settings, split_tables(tensors, None), [])


def _sat(path: Path) -> Source:
    """A SAT model folder, or its `transformer/` alone."""
    whole = (path / "transformer").is_dir()
    remarks: list[str] = []
    groups = split_prefixes(tensors_of(model_states_path(path / "transformer" if whole else path)))
    copies = {name: groups.pop(name, {}) for name in ("vae", "text_encoder")}
    settings, config = _yaml(path, remarks) if whole else (None, None)
    if whole:
        groups |= _sat_parts(path, remarks)
    for component, copy in copies.items():
        if copy and component not in groups:
            groups[component] = copy
        elif copy:
            remarks.append(
                f"the engine's own file also holds {len(copy)} tensors of {component}, which SAT"
                f" would run; compared here is what the {component} folder holds"
            )
    tensors: dict[str, Stored] = {}
    for component, part in groups.items():
        kept = {name: load for name, load in part.items() if not name.startswith("loss")}
        tensors |= canonical(component, kept)
    tables = split_tables(tensors, config)
    kind: SourceKind = "sat" if whole else "file"
    return _source(path, kind, tensors, settings, tables, remarks)


def _yaml(path: Path, remarks: list[str]) -> tuple[dict[str, Any] | None, TransformerConfig | None]:
    found = [p for p in sorted(path.glob("*.y*ml")) if "model:" in p.read_text(errors="replace")]
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        remarks.append(f"settings not compared: one YAML with a `model:` section expected: {names}")
        return None, None
    try:
        config = read_config(found[0])
    except BackendError as error:
        remarks.append(f"settings not compared: {error}")
        return None, None
    return sat_settings(config), config.transformer


def _sat_parts(path: Path, remarks: list[str]) -> dict[str, dict[str, Loader]]:
    groups: dict[str, dict[str, Loader]] = {}
    try:
        groups["vae"] = tensors_of(path / "vae" / "3d-vae.pt")
    except CheckpointError as error:
        remarks.append(str(error))
    folders = [
        entry for entry in sorted(path.iterdir())
        if entry.is_dir() and entry.name not in ("transformer", "vae")
    ]  # fmt: skip
    for folder in folders:
        try:
            weights = read_weights(folder, TEXT_ENCODER)
        except CheckpointError:
            continue
        groups["text_encoder"] = {name: weights.loader(name) for name in weights}
        return groups
    remarks.append(f"{path} has no folder with T5's weights")
    return groups


def _source(
    path: Path,
    kind: SourceKind,
    tensors: Mapping[str, Stored],
    settings: Mapping[str, Any] | None,
    tables: Mapping[str, tuple[Stored, Loader | None]],
    remarks: list[str],
) -> Source:
    if not tensors:
        raise CheckpointError(
            f"{path} holds no readable weights: {'; '.join(remarks) or 'no files'}"
        )
    return Source(path, kind, tensors, settings, tables, tuple(remarks))
