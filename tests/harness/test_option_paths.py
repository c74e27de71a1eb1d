"""A render's key depends on what the paths among a backend's options hold."""

from __future__ import annotations

from pathlib import Path

from harness.store.keys import named_content


def test_files_and_folders_count_by_content(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.pt").write_bytes(b"one")
    config = tmp_path / "model.yaml"
    config.write_text("model: {}\n")
    before = named_content(str(tmp_path / "weights")), named_content(str(config))
    (tmp_path / "weights" / "model.pt").write_bytes(b"two")
    config.write_text("model: {scale_factor: 1}\n")
    after = named_content(str(tmp_path / "weights")), named_content(str(config))
    assert before[0] != after[0] and before[1] != after[1]
    assert named_content(str(tmp_path / "nowhere")) is None


def test_a_checkout_counts_by_every_file_but_its_history_and_bytecode(tmp_path: Path) -> None:
    for name in ("sgm/util.py", "sgm/table.bin", "sgm/__pycache__/util.pyc", ".git/HEAD"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1\n")
    before = named_content(str(tmp_path))
    (tmp_path / "sgm/__pycache__/util.pyc").write_text("2\n")
    (tmp_path / ".git/HEAD").write_text("2\n")
    assert named_content(str(tmp_path)) == before
    (tmp_path / "sgm/table.bin").write_text("2\n")
    assert named_content(str(tmp_path)) != before
