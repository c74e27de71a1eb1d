"""Opening a CogVideoX checkpoint in Diffusers' format: micro model, local folder, or hub id."""

from __future__ import annotations

import difflib
import json
import logging
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from backends.errors import CheckpointError, MissingPrerequisite, Unsupported

_log = logging.getLogger("parity")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load_pipeline(
    model: str,
    dtypes: dict[str, torch.dtype],
    revision: str | None,
    variant: str | None,
) -> Any:
    """The `CogVideoXPipeline` of `model`, on the CPU, its components in `dtypes` (key `default`).

    Only safetensors are read. Raises `CheckpointError` for a folder that is missing, damaged or
    incomplete, `Unsupported` for a model of another kind, `MissingPrerequisite` if the hub cannot be
    reached.
    """
    folder = _folder(model, revision, variant)
    _check_index(folder)
    diffusers = import_module("diffusers")
    compat = import_module("diffusers.utils.deprecation_utils")
    keyword = "dtype" if hasattr(compat, "_resolve_dtype") else "torch_dtype"
    try:
        pipe = diffusers.CogVideoXPipeline.from_pretrained(
            str(folder), variant=variant, use_safetensors=True, **{keyword: dtypes}
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder} does not load: {type(error).__name__}: {str(error).splitlines()[0]};"
            " compare the folder with its source and copy or convert it again"
        ) from error
    for name in ("text_encoder", "vae", "transformer"):
        _check_complete(folder / name, getattr(pipe, name))
    return pipe


def _folder(model: str, revision: str | None, variant: str | None) -> Path:
    from backends.micro import MODELS, model_path

    if model in MODELS:
        return model_path(model)
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(
            f"{path} is a file; expected a folder with model_index.json, as save_pretrained writes"
        )
    if not _HUB_ID.fullmatch(model):
        near = difflib.get_close_matches(model, MODELS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise CheckpointError(
            f"no model {model!r}{hint} Expected a micro model ({', '.join(MODELS)}), a local folder,"
            " or a hub id such as zai-org/CogVideoX-2b"
        )
    return _downloaded(model, revision, variant)


def _downloaded(model: str, revision: str | None, variant: str | None) -> Path:
    diffusers = import_module("diffusers")
    try:
        return Path(
            diffusers.CogVideoXPipeline.download(
                model, revision=revision, variant=variant, use_safetensors=True
            )
        )
    except (OSError, ValueError) as error:
        raise MissingPrerequisite(
            f"{model!r} is no local folder and could not be fetched from the hub"
            f" ({type(error).__name__}: {str(error).splitlines()[0]}); check the name and the network,"
            f" run `hf download {model}` where there is one, or give a local folder"
        ) from error


def _check_index(folder: Path) -> None:
    index = folder / "model_index.json"
    if not index.is_file():
        raise CheckpointError(
            f"{folder} has no model_index.json; expected a folder that save_pretrained wrote. A SAT"
            " checkpoint must be converted first"
        )
    try:
        kind = json.loads(index.read_text())["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{index} is not a Diffusers model index: {error}") from error
    if kind != "CogVideoXPipeline":
        raise Unsupported(
            f"{folder} is a {kind}; this backend runs text-to-video CogVideoXPipeline models only"
        )


def _check_complete(folder: Path, component: Any) -> None:
    """Diffusers and transformers only log missing weights and leave them random."""
    stored: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(str(file), framework="pt") as tensors:
            stored |= set(tensors.keys())
    # Tied tensors share memory and are stored under one of their names.
    named: dict[tuple[int, torch.Size], list[str]] = {}
    for name, tensor in component.state_dict().items():
        named.setdefault((tensor.data_ptr(), tensor.shape), []).append(name)
    missing = [names[0] for names in named.values() if not stored.intersection(names)]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of {len(named)} tensors, first {sorted(missing)[:3]};"
            " Diffusers would fill them with random values. Copy or convert the component again"
        )
    surplus = stored - {name for names in named.values() for name in names}
    if surplus:
        _log.warning(
            "%s holds %d tensors that the model has no place for, first %s; they are ignored",
            folder, len(surplus), sorted(surplus)[:3],
        )  # fmt: skip


def check_model_kind(transformer: Any, vae: Any) -> None:
    """Raise `Unsupported` if the transformer takes more than the noisy latents of `vae`."""
    channels, latent = transformer.config.in_channels, vae.config.latent_channels
    if channels != latent:
        raise Unsupported(
            f"the transformer takes {channels} channels but the VAE has {latent} latent channels:"
            " an image-to-video model; this backend runs text-to-video models only"
        )
