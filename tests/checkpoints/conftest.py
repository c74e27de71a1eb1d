"""A tiny pipeline of either kind, made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_pipelines import save_pipeline


@pytest.fixture(scope="session", params=["2b", "5b"])
def pipeline_folder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A Diffusers folder of either kind."""
    return save_pipeline(tmp_path_factory.mktemp(request.param) / "model", request.param)
