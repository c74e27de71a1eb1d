"""Mistakes that only a worker sees: one message, exit code 2, nothing half-written."""

import errno
import os
import pickle
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest

from backends.micro import model_path
from harness.cli import main
from harness.store.store import Store

QUICK = ["case=micro_2b_quick", "candidate=[diffusers_model_offload]", "judge.rerun=false",
         "metrics=[psnr]", "cases.micro_2b_quick.steps=2"]  # fmt: skip


class Attack:
    """What a pickled checkpoint must never get to do."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_path("micro-2b"), tmp_path / "model"))


def _run(tmp_path: Path, capsys: pytest.CaptureFixture[str], *settings: str) -> tuple[int, str]:
    folders = [f"store={tmp_path}/store", f"results={tmp_path}/results"]
    code = main(["run", *QUICK, *folders, *settings])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def _nothing_half_written(tmp_path: Path) -> bool:
    staging = tmp_path / "store" / "staging"
    kept = Store(tmp_path / "store").renders()
    return all(r.status != "ok" for r in kept) and not (
        staging.exists() and list(staging.iterdir())
    )


def test_a_missing_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = _run(tmp_path, capsys, f"cases.micro_2b_quick.model={tmp_path}/nowhere")
    assert code == 2
    assert "was not found" in said
    assert "Traceback" not in said


def test_a_corrupt_checkpoint(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = model / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    code, said = _run(tmp_path, capsys, f"cases.micro_2b_quick.model={model}")
    assert code == 2
    assert "diffusion_pytorch_model.safetensors" in "".join(said.split())
    assert "Traceback" not in said
    assert _nothing_half_written(tmp_path)


def test_pickled_code_in_a_checkpoint_is_refused_and_never_run(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "attacked"
    (model / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    (model / "transformer" / "diffusion_pytorch_model.bin").write_bytes(
        pickle.dumps({"weight": Attack(marker)})
    )
    code, said = _run(tmp_path, capsys, f"cases.micro_2b_quick.model={model}")
    assert code == 2
    assert not marker.exists()
    assert "Traceback" not in said
    assert _nothing_half_written(tmp_path)


def test_a_full_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Store.staged

    @contextmanager
    def full(self: Store, kind: str, key: str, final: Callable[[], str] | None = None):
        with original(self, kind, key, final) as folder:
            (folder / "partial").write_text("x")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield folder

    monkeypatch.setattr(Store, "staged", full)
    code, said = _run(tmp_path, capsys)
    assert code == 2
    assert "no space left" in said
    assert "Traceback" not in said
    assert _nothing_half_written(tmp_path)
