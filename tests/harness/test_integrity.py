"""Every byte of the store is covered by a checksum that is looked at before the byte is used."""

import subprocess
from pathlib import Path

import pytest

from harness.records import PipelineRecord, RenderRecord
from harness.store.integrity import SUMS, damage, seal
from harness.store.store import Store

KEY = "ab" * 32
FILES = {
    "frames.mkv": bytes(range(256)),
    "preview.mp4": b"small",
    "trace.safetensors": b"\0" * 64,
}


def _store(root: Path, told: list[str]) -> Store:
    store = Store(root, told.append)
    with store.staged("renders", KEY) as folder:
        record = RenderRecord(
            key=KEY, case={"name": "c"}, variant={"name": "v"}, seed=0, repeat=0, share=[],
            inputs_key=None, status="ok", created="2026-01-01T00:00:00+00:00",
        )  # fmt: skip
        (folder / "record.json").write_text(record.model_dump_json())
        for name, content in FILES.items():
            (folder / name).write_bytes(content)
    return store


@pytest.mark.parametrize("name", [*FILES, "record.json", SUMS])
def test_a_flipped_bit_in_any_byte_of_any_file_is_found(tmp_path: Path, name: str) -> None:
    folder = _store(tmp_path, []).render_folder(KEY)
    assert damage(folder) is None
    original = (folder / name).read_bytes()
    for at in range(len(original)):
        flipped = bytearray(original)
        flipped[at] ^= 0x20  # changes the case of a letter, which careless parsers do not see
        (folder / name).write_bytes(flipped)
        assert damage(folder) is not None, f"byte {at} of {name}"
    (folder / name).write_bytes(original)
    assert damage(folder) is None


def test_damage_is_moved_away_reported_and_absent(tmp_path: Path) -> None:
    told: list[str] = []
    store = _store(tmp_path, told)
    assert store.find(KEY) is not None
    path = store.render_folder(KEY) / "frames.mkv"
    path.write_bytes(b"x" + path.read_bytes()[1:])
    assert store.find(KEY) is None
    assert not store.render_folder(KEY).exists()
    assert "'frames.mkv': not the bytes that were stored" in told[0]
    (kept,) = (tmp_path / "quarantine").glob("*/frames.mkv")
    assert "frames.mkv" in kept.parent.with_suffix(".txt").read_text()
    assert _store(tmp_path, told).find(KEY) is not None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "frames.mkv").unlink(), "'frames.mkv': missing"),
        (lambda folder: (folder / SUMS).unlink(), "SHA256SUMS is missing"),
        (lambda folder: (folder / "more").write_text(""), "'more': not among the files"),
        (lambda folder: (folder / "more").mkdir(), "'more': not among the files"),
    ],
)
def test_missing_and_added_files_are_damage(tmp_path: Path, change, reason: str) -> None:
    told: list[str] = []
    store = _store(tmp_path, told)
    change(store.render_folder(KEY))
    assert store.find(KEY) is None
    assert reason in told[0]


def test_the_sums_are_those_of_coreutils(tmp_path: Path) -> None:
    seal_folder = _store(tmp_path, []).render_folder(KEY)
    seal(seal_folder)
    done = subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=seal_folder, check=False)
    assert done.returncode == 0


def test_a_flipped_bit_in_an_identity_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    key = store.add_pipeline(
        PipelineRecord(weights={"a": "0"}, dtypes={}, configs={}, policies={"schedule": "x"})
    )
    (path,) = tmp_path.glob("pipelines/*/*.json")
    original = path.read_bytes()
    for at in range(len(original)):
        flipped = bytearray(original)
        flipped[at] ^= 0x20
        path.write_bytes(flipped)
        assert store.pipeline_damage(key) is not None, f"byte {at}"
    assert store.add_pipeline(PipelineRecord.model_validate_json(original)) == key
    assert store.pipeline_damage(key) is None
