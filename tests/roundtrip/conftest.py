"""Tiny float32 models with ordinary weights, in both formats, and LoRAs of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "checkpoints"))


@pytest.fixture(scope="session")
def diffusers_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_models import save_tiny

    return save_tiny(tmp_path_factory.mktemp("tiny") / "diffusers")


@pytest.fixture(scope="session")
def sat_model(diffusers_model: Path) -> Path:
    from backends.checkpoints import convert

    return convert(diffusers_model, diffusers_model.parent / "sat", "sat").destination


@pytest.fixture(scope="session", params=["diffusers", "sat"])
def model(request: pytest.FixtureRequest) -> Path:
    """The model in either format."""
    found: Path = request.getfixturevalue(f"{request.param}_model")
    return found


@pytest.fixture(scope="session")
def lora(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA in the model's format: rank 4, alpha 2."""
    from loras import header, lora_tensors, sat_lora, sat_yaml, save_lora

    folder = tmp_path_factory.mktemp("lora") / "before"
    if model.name == "sat":
        return sat_lora(folder, lora_tensors(size=0.3), sat_yaml(r=4, lora_alpha=2))
    return save_lora(folder, lora_tensors(size=0.3), header(r=4, lora_alpha=2))
