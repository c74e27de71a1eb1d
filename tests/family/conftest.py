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


@pytest.fixture(scope="session")
def opened(family: dict[str, Path]) -> Iterator[Any]:
    """A function that opens a kind with the `sat` backend, once for each `first_frame`."""
    from backends.sat.adapter import SatBackend

    pipelines: dict[tuple[str, str], Any] = {}

    def opened(name: str, first_frame: str) -> Any:
        if (name, first_frame) not in pipelines:
            options = {"device": "cpu", "first_frame": first_frame}
            pipelines[name, first_frame] = SatBackend().open(str(family[name]), options)
        return pipelines[name, first_frame]

    yield opened
    for pipeline in pipelines.values():
        pipeline.close()


@pytest.fixture(scope="module")
def sat(kind: str, opened: Any) -> Any:
    """The kind as CogVideo decodes it."""
    return opened(kind, "upstream")


@pytest.fixture(scope="module")
def single(kind: str, opened: Any) -> Any:
    """The kind with a single first frame, as Diffusers decodes it."""
    return opened(kind, "single")
