"""The components of a pipeline's folder before anything is loaded: do they make a model that can be run?

Settings are held to the installed classes (`sound`). Then what costs no memory is made: every model on
the meta device, whose names and shapes are held against the headers of its weight files, the scheduler,
and the tokenizer, whose tokens are held against the text encoder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from safetensors import SafetensorError, safe_open

from backends.checkpoints.diffusers.weight_files import MODEL, TEXT_ENCODER, safetensors_files
from backends.checkpoints.scales import EIGHT_BITS, SUFFIXES
from backends.checkpoints.sound import accepted, check_settings
from backends.checkpoints.sound_tokenizer import check_tokenizer
from backends.checkpoints.trust import read_index, read_mapping
from backends.errors import CheckpointError, Unsupported

Stored = dict[str, tuple[Path, str, tuple[int, ...]]]
"""A tensor's file, dtype and shape, by its name."""

_AGAIN = "Use the configuration that belongs to these weights, or fetch or convert the folder again"
_DTYPES = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I8": "int8", "U8": "uint8",
           "I16": "int16", "I32": "int32", "I64": "int64", "BOOL": "bool"}  # fmt: skip
_WHOLE = ("int", "uint", "bool")


def check_pipeline(folder: Path, parts: Mapping[str, Path], variant: str | None) -> None:
    """Raise `CheckpointError` or `Unsupported` for a pipeline's `folder` that makes no sound model.

    `parts` are the folders of the models in it, of which one may lie elsewhere; `variant` names a set of
    weight files, such as fp16. What the index leaves out, the loader misses.
    """
    index = read_index(folder)
    named: dict[str, list[str]] = {k: v for k, v in index.items() if isinstance(v, list) and any(v)}
    made = {
        name: check_model(path, library_class(*named[name]), variant)
        for name, path in parts.items()
        if name in named
    }
    if "scheduler" in named:
        check_scheduler(folder / "scheduler", library_class(*named["scheduler"]))
    if "tokenizer" in named and (encoder := made.get("text_encoder")) is not None:
        check_tokenizer(
            folder / "tokenizer",
            library_class(*named["tokenizer"]),
            encoder.config,
            parts["text_encoder"],
        )
    if {"transformer", "text_encoder"} <= made.keys():
        wide, taken = made["text_encoder"].config.d_model, made["transformer"].config.text_embed_dim
        if wide != taken:
            raise CheckpointError(
                f"{parts['transformer'] / 'config.json'}: `text_embed_dim` is {taken}, and the text"
                f" encoder gives {wide} (`d_model` in {parts['text_encoder'] / 'config.json'}). {_AGAIN}"
            )


def check_model(folder: Path, kind: Any, variant: str | None = None) -> Any:
    """The model in `folder`, of class `kind` of Diffusers or transformers, on the meta device.
    `variant` names a set of weight files, such as fp16.

    Raises `CheckpointError` for settings that make no model, or another one than the weights are of.
    """
    path = folder / "config.json"
    values = read_mapping(path)
    settings = getattr(kind, "config_class", None)  # transformers' models have one
    check_settings(path, values, settings or kind, nonzero=settings is None)
    stored = _stored(folder, (MODEL if settings is None else TEXT_ENCODER)[0], variant)
    _check_depth(path, values, stored)
    try:
        with torch.device("meta"):
            model = (
                kind(**accepted(kind, values))
                if settings is None
                else kind(settings.from_dict(dict(values)))
            )
    except Exception as error:  # whatever torch and the class raise for a value
        raise _unusable(path, error) from error
    if not values.get("quantization_config"):  # such weights are stored in shapes of their own
        _check_stored(path, model, stored)
    return model


def check_scheduler(folder: Path, kind: Any) -> None:
    """Raise `CheckpointError` for settings of a scheduler that give no noise levels."""
    path = folder / "scheduler_config.json"
    values = read_mapping(path)
    check_settings(path, values, kind, nonzero=False)
    try:
        scheduler = kind(**accepted(kind, values))
        levels = getattr(scheduler, "alphas_cumprod", None)
        scheduler.set_timesteps(min(4, scheduler.config.num_train_timesteps))
    except Exception as error:  # whatever numpy, torch and the class raise for a value
        raise _unusable(path, error) from error
    if isinstance(levels, torch.Tensor) and not (
        levels.isfinite().all() and (levels >= 0).all() and (levels <= 1).all()
        and (levels.diff() < 0).all()
    ):  # fmt: skip
        given = {k: v for k, v in values.items() if "beta" in k or k == "snr_shift_scale"}
        raise CheckpointError(
            f"{path}: {given} give noise levels (`alphas_cumprod`) that do not fall from 1 to 0"
            f" step by step, so nothing can be denoised. {_AGAIN}"
        )


def library_class(library: str, name: str) -> Any:
    """Class `name` of an installed library. Raises `Unsupported` where it has none."""
    module = import_module(library)
    if not isinstance(found := getattr(module, name, None), type):
        raise Unsupported(
            f"{library} {module.__version__} has no class {name}, which the model's folder names;"
            " install the version that the model was saved with, or a later one"
        )
    return found


def _unusable(path: Path, error: Exception) -> CheckpointError:
    first = (str(error).strip().splitlines() or ["no reason given"])[0]
    return CheckpointError(
        f"{path}: no model can be made with these settings ({type(error).__name__}: {first}). {_AGAIN}"
    )


def _stored(folder: Path, stem: str, variant: str | None) -> Stored:
    """The tensors of the safetensors files that a loader takes, from their headers; none where there
    are no such files, or damaged ones, of which the loader says what is wrong."""
    found: Stored = {}
    try:
        for file in sorted(safetensors_files(folder, stem, variant)):
            with cast(Any, safe_open)(file, framework="pt") as content:
                names: list[str] = content.keys()
                for name in names:
                    part = content.get_slice(name)
                    dtype = _DTYPES.get(part.get_dtype(), "float")
                    found[name] = file, dtype, tuple(part.get_shape())
    except (OSError, SafetensorError, CheckpointError):
        return {}
    return found


def _check_depth(path: Path, values: Mapping[str, Any], stored: Stored) -> None:
    """Before a model of so many layers is made: every layer has a tensor at least."""
    for key, value in values.items():
        if "layers" in key and type(value) is int and stored and value > len(stored):
            raise CheckpointError(
                f"{path}: `{key}` is {value}, and the weights have {len(stored)} tensors. {_AGAIN}"
            )


def _check_stored(path: Path, model: Any, stored: Stored) -> None:
    wanted: dict[str, torch.Tensor] = model.state_dict()
    layers = {_unnumbered(name) for name in wanted}
    ignored: list[str] = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []
    for name, (file, dtype, shape) in stored.items():
        if name not in wanted:
            if (_unnumbered(name) in layers or _is_off(model, name)) and not any(
                re.search(pattern, name) for pattern in ignored
            ):
                raise CheckpointError(
                    f"{file} holds {name}, which the model that {path} describes has not: it would be"
                    f" left out. {_AGAIN}"
                )
            continue
        if shape != tuple(wanted[name].shape):
            raise CheckpointError(
                f"{file}: {name} has shape {shape}, and {path} describes"
                f" {tuple(wanted[name].shape)}. {_AGAIN}"
            )
        if not wanted[name].is_floating_point():
            continue
        scale = _scale_of(name, stored) if dtype in EIGHT_BITS else None
        if dtype.startswith(_WHOLE) or scale:
            refuse_whole(file, name, f"{dtype} beside its scale {scale}" if scale else dtype)


def refuse_whole(file: Path, name: str, dtype: str) -> NoReturn:
    """Raise `CheckpointError` for the weight `name` in `file`, which is stored as `dtype`."""
    raise CheckpointError(
        f"{file}: {name} is stored as {dtype}; expected float32, bfloat16 or float16. The loader would"
        " take the stored numbers for the weights. Multiply by the scales and save it as bfloat16, or"
        " name the folder of the model that is not quantised"
    )


def _is_off(model: Any, name: str) -> bool:
    """Whether `name` lies in a part that the model may have, and its settings switch off."""
    found = model
    for part in name.split("."):
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
        if found is None:
            return True
    return False


def _scale_of(name: str, stored: Stored) -> str | None:
    stem = name.removesuffix(".weight")
    return next((stem + suffix for suffix in SUFFIXES if stem + suffix in stored), None)


def _unnumbered(name: str) -> str:
    return re.sub(r"\d+", "#", name)
