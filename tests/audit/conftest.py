"""The pipelines under audit: a small random model, a copy to damage, and the same in SAT's format."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from audit_models import Model, State


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A random 5B-like pipeline of two blocks, its transformer in float32."""
    from tiny_pipelines import save_pipeline

    found = Model(save_pipeline(tmp_path_factory.mktemp("audit") / "base", "5b"))
    generator = torch.Generator().manual_seed(7)

    def redraw(state: State) -> None:
        for name, tensor in state.items():
            state[name] = torch.randn(tensor.shape, generator=generator) * 0.1

    return found.edit(redraw)


@pytest.fixture
def broken(model: Model, tmp_path: Path) -> Model:
    """A copy of the model, to be damaged."""
    return model.copy(tmp_path / "candidate")


@pytest.fixture(scope="session")
def sat_folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a SAT folder."""
    from backends.checkpoints import convert

    folder = tmp_path_factory.mktemp("audit") / "sat"
    convert(model.folder, folder, "sat")
    return folder
