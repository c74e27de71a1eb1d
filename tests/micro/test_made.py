"""Checkpoints made when they are asked for: once, whole, and what the audit says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.errors import CheckpointError
from backends.micro import checkpoint_path, model_path
from harness.audit import audit
from harness.cli import main


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_a_conversion_is_made_once_and_is_the_model() -> None:
    folder = checkpoint_path("made:converted")
    stamp = folder.stat().st_mtime_ns
    assert checkpoint_path("made:converted") == folder and folder.stat().st_mtime_ns == stamp
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing half made"
    report = audit("micro-5b", "made:converted")
    assert report.exit_code == 0 and report.headline.startswith("IDENTICAL up to layout")


def test_the_faulty_converter_changed_one_setting_and_no_tensor() -> None:
    report = audit("micro-5b", "made:converted_as_2b")
    assert set(report.compared) == {"identical"}
    (finding,) = report.findings
    assert (finding.name, finding.candidate) == ("vae.scaling_factor", 1.15258426)


def test_other_names_are_as_before(tmp_path: Path) -> None:
    assert checkpoint_path("micro-5b") == model_path("micro-5b")
    assert checkpoint_path("micro-5b-magenta").is_dir()
    assert checkpoint_path(str(tmp_path)) == tmp_path


def test_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "micro-5b", "made:nothing"]) == 2
    assert "no checkpoint made:nothing; known: converted" in capsys.readouterr().err
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="set XDG_CACHE_HOME"):
        checkpoint_path("made:converted")
