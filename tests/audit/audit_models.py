"""A small random model in both formats, and copies of it with one thing changed."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1] / "checkpoints"))

State = dict[str, Tensor]
Edit = Callable[[State], None]
_FILES = {
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


class Model:
    """A Diffusers folder that tests copy and damage."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def state(self, component: str = "transformer") -> State:
        """The tensors of a component, to read."""
        return load_file(self.folder / component / _FILES[component])

    def copy(self, folder: Path) -> Model:
        """The same model elsewhere."""
        shutil.copytree(self.folder, folder)
        return Model(folder)

    def edit(self, change: Edit, component: str = "transformer") -> Model:
        """Change a component's tensors in place on disk."""
        path = self.folder / component / _FILES[component]
        state = {name: tensor.clone() for name, tensor in load_file(path).items()}
        change(state)
        save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, path)
        return self

    def configure(self, file: str, **values: Any) -> Model:
        """Change keys of a configuration file; None takes the key out."""
        path = self.folder / file
        config = json.loads(path.read_text()) | values
        path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        return self
