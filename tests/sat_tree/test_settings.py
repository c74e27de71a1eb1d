"""Which YAML files a run of CogVideo's code is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.checkpoints.sat.layout import SatFolder
from backends.errors import CheckpointError
from backends.sat.tree.settings import find_inference


def _parts(folder: Path) -> SatFolder:
    (folder / "model.yaml").write_text("model: {}\n")
    return SatFolder(folder / "model.yaml", folder, folder, folder)


def test_the_inference_file_beside_the_models_is_found(tmp_path: Path) -> None:
    parts = _parts(tmp_path)
    assert find_inference(parts, None) is None
    (tmp_path / "inference.yaml").write_text("args: {mode: inference}\n")
    (tmp_path / "other.yml").write_text("something: else\n")
    assert find_inference(parts, None) == tmp_path / "inference.yaml"


def test_several_are_not_guessed_between(tmp_path: Path) -> None:
    parts = _parts(tmp_path)
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("args: {}\n")
    with pytest.raises(CheckpointError, match=r"a\.yaml, b\.yaml.*inference_config"):
        find_inference(parts, None)
    assert find_inference(parts, tmp_path / "b.yaml") == tmp_path / "b.yaml"


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="inference_config"):
        find_inference(_parts(tmp_path), tmp_path / "none.yaml")
