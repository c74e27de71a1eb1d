"""A render's key depends on what the paths among a backend's options hold."""

from __future__ import annotations

from pathlib import Path

from harness.keys import path_digest


def _fresh(path: Path) -> str:
    path_digest.cache_clear()
    return path_digest(str(path))


def test_files_and_folders_count_by_content(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.pt").write_bytes(b"one")
    config = tmp_path / "model.yaml"
    config.write_text("model: {}\n")
    before = _fresh(tmp_path / "weights"), _fresh(config)
    (tmp_path / "weights" / "model.pt").write_bytes(b"two")
    config.write_text("model: {scale_factor: 1}\n")
    after = _fresh(tmp_path / "weights"), _fresh(config)
    assert before[0] != after[0] and before[1] != after[1]
    assert _fresh(tmp_path / "nowhere") == "missing"


def test_a_checkout_counts_by_its_code(tmp_path: Path) -> None:
    (tmp_path / "sgm").mkdir()
    (tmp_path / "sample_video.py").write_text("1\n")
    (tmp_path / "sgm" / "util.py").write_text("1\n")
    before = _fresh(tmp_path)
    (tmp_path / "outputs.mp4").write_bytes(b"a video that the script left there")
    assert _fresh(tmp_path) == before
    (tmp_path / "sgm" / "util.py").write_text("2\n")
    assert _fresh(tmp_path) != before
