"""A tiny pipeline of every kind, made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_pipelines import KINDS, save_pipeline


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Diffusers folders by kind."""
    root = tmp_path_factory.mktemp("pipelines")
    return {name: save_pipeline(root / name, name) for name in KINDS}


@pytest.fixture(scope="session", params=["2b", "5b"])
def pipeline_folder(request: pytest.FixtureRequest, pipelines: dict[str, Path]) -> Path:
    """A Diffusers folder of either text-to-video kind of 1.0."""
    return pipelines[request.param]


@pytest.fixture(scope="session", params=KINDS)
def any_kind(request: pytest.FixtureRequest) -> str:
    """The name of every kind."""
    return request.param
