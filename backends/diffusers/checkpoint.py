"""Opening a CogVideoX checkpoint in Diffusers' format: micro model, local folder, or hub id."""

from __future__ import annotations

import inspect
import logging
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from backends.checkpoints.diffusers.weight_files import read_torch_file
from backends.checkpoints.sound_parts import check_pipeline, refuse_whole
from backends.checkpoints.trust import (
    INDEX,
    check_index,
    read_index,
    read_mapping,
    refuse_code,
    refuse_old_torch,
)
from backends.diffusers.placement import COMPONENTS
from backends.errors import CheckpointError, MissingPrerequisite, Unsupported, hint
from backends.micro import MODELS, checkpoint_path

_log = logging.getLogger("parity")
_PICTURE_PIPELINE = "CogVideoXImageToVideoPipeline"
_PIPELINES = ("CogVideoXPipeline", _PICTURE_PIPELINE, "CogVideoXVideoToVideoPipeline")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Source:
    """Where a pipeline's parts come from.

    `model` is a micro model's name, a folder or a hub id, the latter at `revision`. `variant` names a
    set of weight files, such as fp16. `safetensors` false reads `.bin` files, still without running
    code from them. `transformer` is a folder whose transformer takes the place of the model's own.
    """

    model: str
    revision: str | None = None
    variant: str | None = None
    safetensors: bool = True
    transformer: str | None = None


def load_pipeline(source: Source, dtypes: dict[str, torch.dtype]) -> Any:
    """The pipeline of `source`, on the CPU, its components in `dtypes` (key `default`).

    It is a `CogVideoXImageToVideoPipeline` where the model index says so, else a `CogVideoXPipeline`.
    Raises `CheckpointError` for a folder that is missing, damaged or incomplete, `Unsupported` for a
    model of another kind, `MissingPrerequisite` if the hub cannot be reached.
    """
    folder = _folder(source)
    kind = _pipeline_class(folder)
    diffusers = import_module("diffusers")
    parts = {name: folder / name for name in COMPONENTS}
    if not source.safetensors:
        refuse_old_torch(folder)
    if source.transformer is not None:
        parts["transformer"] = _transformer_folder(source.transformer)
    _check_known(diffusers, parts["transformer"])
    check_pipeline(folder, parts, source.variant)
    given: dict[str, Any] = {}
    if source.transformer is not None:
        given["transformer"] = _loaded(
            diffusers.CogVideoXTransformer3DModel,
            parts["transformer"],
            source,
            dtypes["transformer"],
        )
    cls = getattr(diffusers, kind)
    # A dtype for each component is a mapping to later versions only; one dtype is the same to all.
    for name in ("text_encoder", "vae"):
        if (own := dtypes.get(name, dtypes["default"])) != dtypes["default"]:
            others = {other: None for other in COMPONENTS if other != name}
            given[name] = getattr(_loaded(cls, folder, source, own, **others), name)
    pipe = _loaded(cls, folder, source, dtypes["default"], **given)
    for name, part in parts.items():
        _check_complete(part, getattr(pipe, name), source.safetensors)
    check_model_kind(pipe)
    return pipe


def _check_known(diffusers: Any, transformer: Path) -> None:
    """Versions before 0.32 warn of the settings of CogVideoX 1.5, and build another model."""
    kind = diffusers.CogVideoXTransformer3DModel
    settings = read_mapping(transformer / "config.json")
    known = inspect.signature(kind.__init__).parameters
    if settings.get("patch_size_t") is not None and "patch_size_t" not in known:
        raise Unsupported(
            f"{transformer} is of CogVideoX 1.5, which diffusers {diffusers.__version__} cannot build"
            " (it has no `patch_size_t`); install 0.32 or later in this variant's interpreter"
        )


def _loaded(cls: Any, folder: Path, source: Source, dtype: torch.dtype, **given: Any) -> Any:
    compat = import_module("diffusers.utils.deprecation_utils")
    keyword = "dtype" if hasattr(compat, "_resolve_dtype") else "torch_dtype"
    try:
        return cls.from_pretrained(
            str(folder),
            variant=source.variant,
            use_safetensors=source.safetensors,
            **{keyword: dtype},
            **given,
        )
    except Exception as error:
        # Diffusers and transformers raise many kinds here, also those of safetensors and tokenizers.
        first = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise CheckpointError(
            f"{folder} does not load: {type(error).__name__}: {first};"
            " compare the folder with its source and copy or convert it again"
        ) from error


def _transformer_folder(given: str) -> Path:
    """The folder itself, or `transformer` in it where it is a whole pipeline's."""
    path = checkpoint_path(given)
    inside = path / "transformer"
    found = inside if inside.is_dir() else path
    refuse_code(found)
    if not (found / "config.json").is_file():
        raise CheckpointError(
            f"transformer={given}: no config.json there; expected a transformer that save_pretrained"
            " wrote, or a pipeline's folder with one in `transformer`"
        )
    return found


def _folder(source: Source) -> Path:
    model = source.model
    path = checkpoint_path(model)
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(
            f"{path} is a file; expected a folder with model_index.json, as save_pretrained writes"
        )
    if not _HUB_ID.fullmatch(model):
        raise CheckpointError(
            f"no model {model!r}{hint(model, MODELS)}: expected a micro model ({', '.join(MODELS)}),"
            " a local folder, or a hub id such as zai-org/CogVideoX-2b"
        )
    return _downloaded(source)


def _downloaded(source: Source) -> Path:
    diffusers, model = import_module("diffusers"), source.model
    try:
        # Before Diffusers reads it, which may import what it names while it downloads.
        index = import_module("huggingface_hub").hf_hub_download(
            model, INDEX, revision=source.revision
        )
        check_index(Path(index))
        return Path(
            diffusers.DiffusionPipeline.download(
                model,
                revision=source.revision,
                variant=source.variant,
                use_safetensors=source.safetensors,
            )
        )
    except (OSError, ValueError) as error:
        raise MissingPrerequisite(
            f"{model!r} is no local folder and could not be fetched from the hub"
            f" ({type(error).__name__}: {str(error).splitlines()[0]}); check the name and the network,"
            f" run `hf download {model}` where there is one, or give a local folder"
        ) from error


def _pipeline_class(folder: Path) -> str:
    kind = read_index(folder)["_class_name"]
    if kind not in _PIPELINES:
        raise Unsupported(f"{folder} is a {kind}; this backend runs {', '.join(_PIPELINES)}")
    # Text-to-video and video-to-video have the same parts; the case says which is run.
    return kind if kind == _PICTURE_PIPELINE else "CogVideoXPipeline"


def _check_complete(folder: Path, component: Any, safetensors: bool) -> None:
    """Diffusers and transformers only log missing weights and leave them random."""
    stored: set[str] = set()
    for file in folder.glob("*.safetensors" if safetensors else "*.bin"):
        if safetensors:
            with safe_open(str(file), framework="pt") as tensors:
                stored |= set(tensors.keys())
        else:
            content = read_torch_file(file)
            stored |= set(content)
            # Those of safetensors are known from their headers before anything is loaded.
            state = component.state_dict()
            for name in content.keys() & state.keys():
                if state[name].is_floating_point() and not content[name].is_floating_point():
                    refuse_whole(file, name, str(content[name].dtype).removeprefix("torch."))
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


def check_model_kind(pipe: Any) -> None:
    """Raise `CheckpointError` if the transformer's input is not what the pipeline gives it."""
    with_picture = type(pipe).__name__ == _PICTURE_PIPELINE
    latent = int(pipe.vae.config.latent_channels)
    channels, expected = int(pipe.transformer.config.in_channels), latent * (1 + with_picture)
    if channels != expected:
        raise CheckpointError(
            f"the transformer takes {channels} channels, but {type(pipe).__name__} gives it {expected}"
            f" with this VAE of {latent}; put text-to-video and image-to-video parts together with"
            " their own kind only"
        )
