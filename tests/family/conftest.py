"""A tiny random pipeline of every kind of the family, and a picture for those that take one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "checkpoints"))

from tiny_pipelines import KINDS, save_pipeline

from backends.base import Case

HEIGHT, WIDTH, FRAMES = 48, 64, 9


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of the video's size, so that no stack scales it."""
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (HEIGHT, WIDTH, 3), generator=generator, dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(path)
    return path


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Diffusers folders by kind; weights so small that a render stays finite."""
    root = tmp_path_factory.mktemp("family")
    return {name: save_pipeline(root / name, name, spread=0.1) for name in KINDS}


@pytest.fixture(scope="session")
def make_case(picture: Path) -> Any:
    """A function of the kind's name, and of changes, to a case that the kind can render."""

    def make(name: str, **changes: Any) -> Case:
        settings: dict[str, Any] = {
            "name": name, "model": name, "prompt": "a red ball", "negative_prompt": "",
            "frames": FRAMES, "height": HEIGHT, "width": WIDTH, "steps": 3,
            "guidance_scale": 6.0, "dynamic_guidance": False, "sampler": "ddim", "fps": 8,
            "image": str(picture) if KINDS[name].image else None,
        }  # fmt: skip
        return Case(**(settings | changes))

    return make


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The name of every kind."""
    return request.param


@pytest.fixture(scope="module")
def sat(kind: str, family: dict[str, Path]) -> Iterator[Any]:
    """The kind opened by the `sat` backend, as CogVideo decodes it."""
    from backends.sat.adapter import SatBackend

    opened = SatBackend().open(str(family[kind]), {"device": "cpu"})
    yield opened
    opened.close()
