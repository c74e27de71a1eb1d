"""The settings of a run of CogVideo's own code: the user's YAML files, through its own parser."""

from __future__ import annotations

import logging
from argparse import Namespace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml

from backends.checkpoints.sat.layout import SatFolder
from backends.errors import CheckpointError
from backends.sat.tree.checkout import OWN, CogVideoCode

_log = logging.getLogger("parity")
_TRUSTED = OWN | {"sat"}
"""Whose classes a `target:` may name: the checkout that the user named, and SwissArmyTransformer."""
_HARMLESS = "torch.nn.Identity"
"""What CogVideo's own files put in the place of the training loss."""
_PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16}


def find_inference(parts: SatFolder, given: Path | None) -> Path | None:
    """The YAML file with `args:` that goes with a model's YAML, if that is another file.

    `given`, else the one beside the model's that has `args:` and no `model:`. Raises
    `CheckpointError` for a file that is not there or for several.
    """
    if given is not None:
        if not given.is_file():
            raise CheckpointError(
                f"option inference_config: {given} does not exist; expected a YAML file with `args:`,"
                " such as CogVideo's sat/configs/inference.yaml"
            )
        return given
    found = [
        path
        for path in sorted(parts.config.parent.glob("*.y*ml"))
        if path != parts.config and {"args"} == _sections(path) - {"data", "deepspeed"}
    ]
    if len(found) > 1:
        raise CheckpointError(
            f"{parts.config.parent} has several YAML files with `args:`"
            f" ({', '.join(path.name for path in found)}); name one in the option `inference_config`"
        )
    return found[0] if found else None


def read_settings(
    code: CogVideoCode,
    parts: SatFolder,
    inference: Path | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Namespace:
    """What CogVideo's `sample_video.py` would be given: its argument parser on the YAML files.

    The variant's precision and device and the paths of the model's parts take the place of what the
    files say; the rest is theirs, with the changes that `sample_video.py` itself makes.
    """
    files = [parts.config, *([] if inference is None else [inference])]
    for path in files:
        refuse_foreign_targets(path, _load(path))
    _mention_precision(files, dtype)
    own = {
        "args": {
            "mode": "inference",
            "load": str(parts.transformer),
            "device": device.type,
            # Released checkpoints hold the transformer alone; what is missing is checked afterwards.
            "force_inference": True,
            **{name: dtype == kind for name, kind in _PRECISIONS.items()},
        }
    }
    with TemporaryDirectory(prefix="parity-") as work:
        last = Path(work) / "variant.yaml"
        last.write_text(yaml.safe_dump(own), encoding="utf-8")
        args: Any = code.arguments.get_args(["--base", *map(str, [*files, last])])
    del args.deepspeed_config
    _complete(args.model_config, parts, device)
    return args


def refuse_foreign_targets(path: Path, content: Any) -> None:
    """CogVideo's code imports and calls whatever a `target:` names; a model's YAML is only data."""
    if isinstance(content, dict):
        target = str(content.get("target", _HARMLESS))
        if target != _HARMLESS and target.partition(".")[0] not in _TRUSTED:
            raise CheckpointError(
                f"{path}: `target: {target}` is no class of CogVideo, and this file would have it"
                " imported and called; correct the target, or remove that section"
            )
        content = list(content.values())
    for value in content if isinstance(content, list) else ():
        refuse_foreign_targets(path, value)


def _complete(model: Any, parts: SatFolder, device: torch.device) -> None:
    vae = model.first_stage_config.params
    vae.cp_size, vae.ckpt_path = 1, str(parts.vae)
    transformer = model.network_config.params.transformer_args
    transformer.model_parallel_size, transformer.checkpoint_activations = 1, False
    if "loss_fn_config" in model:
        model.loss_fn_config.params.sigma_sampler_config.params.uniform_sampling = False
    text = model.conditioner_config.params.emb_models[0].params
    text.model_dir, text.device = str(parts.text), device.type
    model.sampler_config.params.device = device.type


def _mention_precision(files: list[Path], dtype: torch.dtype) -> None:
    args: dict[str, Any] = {}
    for path in files:
        args |= _load(path).get("args") or {}
    asked = next((kind for name, kind in _PRECISIONS.items() if args.get(name)), torch.float32)
    if args and asked != dtype:
        _log.warning(
            "%s asks for %s; the variant's dtype, %s, is used",
            files[-1],
            str(asked).removeprefix("torch."),
            str(dtype).removeprefix("torch."),
        )


def _sections(path: Path) -> set[str]:
    return {str(key) for key in _load(path)}


def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    return content if isinstance(content, dict) else {}
