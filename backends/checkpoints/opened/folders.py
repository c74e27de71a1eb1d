"""Model folders of either kind, and folders of one component, opened for comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, cast

from backends.checkpoints.config_keys import CONFIG_FILES
from backends.checkpoints.diffusers.weight_files import (
    MODEL,
    TEXT_ENCODER,
    chosen,
    parts,
    read_weights,
)
from backends.checkpoints.opened.configs import (
    component_settings,
    diffusers_settings,
    sat_settings,
)
from backends.checkpoints.opened.files import (
    canonical,
    component_of,
    split_prefixes,
    split_tables,
    tensors_of,
)
from backends.checkpoints.opened.source import Source, SourceKind, Stored, as_stored
from backends.checkpoints.sat.checkpoint import model_states_path
from backends.checkpoints.sat.config import TransformerConfig
from backends.checkpoints.sat.layout import model_yamls
from backends.checkpoints.sat.yaml_reader import read_config
from backends.checkpoints.scales import apply_scales
from backends.checkpoints.tensors import Loader
from backends.checkpoints.trust import INDEX, read_mapping
from backends.errors import BackendError, CheckpointError

_KNOWN = ("transformer", "vae", "text_encoder")
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.safetensors.index.json")


def open_folder(path: Path) -> Source:
    """Open the model or component in `path`. Raises `CheckpointError` where there is none."""
    if (path / "model_index.json").is_file() or any(
        (path / name / "config.json").is_file() for name in _KNOWN
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
    """A pipeline's folder. Its components are those that `model_index.json` names and those whose
    folders are there; whatever file of theirs is neither weights nor settings is listed as it is."""
    named = _named(path)
    tensors: dict[str, Stored] = {}
    files: dict[str, Path] = {}
    unread: list[str] = []
    for component in sorted({*named, *(p.name for p in path.iterdir() if p.is_dir())}):
        folder = path / component
        if component.startswith("."):
            continue
        if not folder.is_dir():
            unread.append(f"{component}: model_index.json names it, and {folder} does not exist")
            continue
        weights = _weights(folder)
        if weights is not None:
            loaders = read_weights(folder, weights.stems)
            part = apply_scales({name: loaders.loader(name) for name in loaders})
            for name, load in part.items():
                stored = as_stored(component, name, load)
                tensors[stored.name] = stored
        elif (folder / "config.json").is_file():
            unread.append(f"{component}: {folder} has a config.json and no weights that are read")
        files |= _other_files(folder, component, weights.files if weights else set())
    files |= {p.name: p for p in path.iterdir() if p.is_file() and p.suffix in _SUFFIXES}
    settings = diffusers_settings(path)
    return _source(Source(path, "diffusers", tensors, settings, files=files, unread=tuple(unread)))


def _named(path: Path) -> list[str]:
    """The components that `model_index.json` says the pipeline has."""
    if not (path / INDEX).is_file():
        return []
    return [
        name
        for name, entry in read_mapping(path / INDEX).items()
        if isinstance(entry, list) and not name.startswith("_") and None not in cast(Any, entry)
    ]


class _Weights(NamedTuple):
    stems: tuple[str, str]
    files: set[Path]


def _weights(folder: Path) -> _Weights | None:
    """The weights that a stack reads in a component's folder, under either library's file names."""
    for stems in (MODEL, TEXT_ENCODER):
        if (path := chosen(folder, stems)) is not None:
            return _Weights(stems, parts(path))
    return None


def _other_files(folder: Path, component: str, taken: set[Path]) -> dict[str, Path]:
    """The files of a component that are neither the weights `taken`, nor settings, nor a hub's own."""
    settings = {f"{folder.name}/{name}" for name in ("config.json",)} | set(CONFIG_FILES)
    return {
        f"{component}/{path.relative_to(folder).as_posix()}": path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path not in taken
        and f"{folder.name}/{path.relative_to(folder).as_posix()}" not in settings
        and not path.name.startswith(".")
        and path.suffix != ".md"
    }


def _component(path: Path) -> Source:
    """A folder such as `transformer/`: weights, and perhaps `config.json`."""
    weights = _weights(path)
    if weights is not None:
        lazy = read_weights(path, weights.stems)
        loaders: dict[str, Loader] = {name: lazy.loader(name) for name in lazy}
        taken = weights.files
    else:
        files = [
            file for pattern in ("*.safetensors", "*.pt", "*.bin") for file in path.glob(pattern)
        ]
        if len(files) != 1:
            names = ", ".join(sorted(file.name for file in files))
            raise CheckpointError(f"{path} holds several weight files ({names}); name one of them")
        loaders = tensors_of(files[0])
        taken = {files[0]}
    component = component_of(loaders)
    settings = component_settings(path / "config.json", component)
    tensors = canonical(component, loaders)
    tables = split_tables(tensors, None)
    others = _other_files(path, component, {*taken, path / "config.json"})
    return _source(Source(path, "file", tensors, settings, tables, files=others))


def _sat(path: Path) -> Source:
    """A SAT model folder, or its `transformer/` alone."""
    whole = (path / "transformer").is_dir()
    remarks: list[str] = []
    unread: list[str] = []
    files: dict[str, Path] = {}
    groups = split_prefixes(tensors_of(model_states_path(path / "transformer" if whole else path)))
    copies = {name: groups.pop(name, {}) for name in ("vae", "text_encoder")}
    settings, config = _yaml(path, unread) if whole else (None, None)
    if whole:
        groups |= _sat_parts(path, unread, files)
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
        if len(kept) < len(part):
            said = f"{len(part) - len(kept)} tensors of its training loss, which no render reads"
            remarks.append(f"{component}: {said}")
        tensors |= canonical(component, kept)
    tables = split_tables(tensors, config)
    kind: SourceKind = "sat" if whole else "file"
    said = tuple(remarks)
    return _source(Source(path, kind, tensors, settings, tables, said, files, tuple(unread)))


def _yaml(path: Path, unread: list[str]) -> tuple[dict[str, Any] | None, TransformerConfig | None]:
    found = model_yamls(path)
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        unread.append(f"settings: one YAML with a `model:` section expected, found {names}")
        return None, None
    try:
        config = read_config(found[0])
    except BackendError as error:
        unread.append(f"settings: {error}")
        return None, None
    return sat_settings(config), config.transformer


def _sat_parts(
    path: Path, unread: list[str], files: dict[str, Path]
) -> dict[str, dict[str, Loader]]:
    """VAE and T5 of a SAT model; the tokenizer, which lies in T5's folder, goes into `files`."""
    groups: dict[str, dict[str, Loader]] = {}
    vae = path / "vae" / "3d-vae.pt"
    if vae.is_file():
        groups["vae"] = tensors_of(vae)
    else:
        unread.append(f"vae: {vae} does not exist")
    homes = [
        entry
        for entry in sorted(path.iterdir())
        if entry.is_dir() and entry.name not in ("transformer", "vae")
    ]
    found = [(folder, weights) for folder in homes if (weights := _weights(folder)) is not None]
    if not found:
        unread.append(f"text_encoder: {path} has no folder with T5's weights")
        return groups
    (folder, weights), *others = found
    lazy = read_weights(folder, weights.stems)
    groups["text_encoder"] = {name: lazy.loader(name) for name in lazy}
    unread += [
        f"{other.name}: a second folder of weights beside {folder.name}" for other, _ in others
    ]
    for place, file in _other_files(folder, "tokenizer", weights.files).items():
        if file.name == "generation_config.json":
            place = f"text_encoder/{file.name}"
        files[place] = file
    return groups


def _source(found: Source) -> Source:
    if not found.tensors:
        why = "; ".join((*found.unread, *found.remarks)) or "no files"
        raise CheckpointError(f"{found.path} holds no readable weights: {why}")
    return found
