"""Files that some reports need: made once in a folder, and named by `{...}` in a setting."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from backends.micro import checkpoint_path

sys.path.insert(0, str(Path(__file__).parents[1] / "checkpoints"))

from loras import header, lora_tensors, save_lora


def in_place(setting: str, root: Path) -> str:
    """`setting` with the paths of what it needs, which is made under `root` where it is missing."""
    for name, make in _MAKERS.items():
        if f"{{{name}}}" in setting:
            folder = root / name
            if not folder.is_dir():
                make(folder)
            setting = setting.replace(f"{{{name}}}", str(folder))
    return setting


def _lora(folder: Path) -> None:
    """A small LoRA of the micro models in Diffusers' format."""
    folder.mkdir()
    save_lora(folder, lora_tensors(blocks=range(2), size=0.1), header(r=4, lora_alpha=2))


def _scale_dropped(folder: Path) -> None:
    """micro-2b whose feed-forward weights went through scaled eight bits and came back unscaled."""
    shutil.copytree(checkpoint_path("micro-2b"), folder)
    (file,) = (folder / "transformer").glob("*.safetensors")
    weights = load_file(file)
    for name, tensor in weights.items():
        if ".ff.net." in name and name.endswith("weight"):
            small = (tensor.float() / (tensor.float().abs().max() / 448)).to(torch.float8_e4m3fn)
            weights[name] = small.to(tensor.dtype)
    save_file(weights, file)


_MAKERS: dict[str, Callable[[Path], None]] = {"lora": _lora, "scale_dropped": _scale_dropped}
