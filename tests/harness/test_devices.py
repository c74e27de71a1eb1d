"""Processes of one machine take different GPUs, of one model, and say which model it is."""

import subprocess
import sys
from pathlib import Path

import pytest

import harness
from backends.worker import environment
from backends.worker.environment import Gpu, gpus
from harness.workers import devices

TAKE = """
import sys, time
sys.path.insert(0, sys.argv[1])
from backends.worker.environment import Gpu
from harness.workers import devices
print(devices._take([Gpu("GPU-0", "A"), Gpu("GPU-1", "A")]), flush=True)
time.sleep(60)
"""


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    for number, model in enumerate(["NVIDIA A", "NVIDIA A", "NVIDIA B"]):
        folder = tmp_path / "gpus" / f"0000:0{number}:00.0"
        folder.mkdir(parents=True)
        text = f"Model: \t\t {model}\nIRQ:   \t\t 1\nGPU UUID: \t GPU-{number}\n"
        (folder / "information").write_text(text)
    return tmp_path / "gpus"


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [("GPU-0", "NVIDIA A"), ("GPU-1", "NVIDIA A"), ("GPU-2", "NVIDIA B")]),
        ("2,0", [("2", "NVIDIA B"), ("0", "NVIDIA A")]),
        ("GPU-2", [("GPU-2", "NVIDIA B")]),
        ("", []),
        ("-1", []),
    ],
)
def test_what_a_process_may_use(
    driver: Path, visible: str | None, expected: list[tuple[str, str]], monkeypatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus(driver) == [Gpu(*each) for each in expected]


def test_every_process_takes_its_own_and_a_dead_one_gives_it_back(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    root = str(Path(harness.__file__).parents[1])
    holders = [
        subprocess.Popen([sys.executable, "-c", TAKE, root], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    taken = {holder.stdout.readline().strip(): holder for holder in holders}
    assert set(taken) == {"GPU-0", "GPU-1", "None"}
    taken["GPU-1"].kill()
    taken["GPU-1"].wait()
    again = subprocess.Popen([sys.executable, "-c", TAKE, root], stdout=subprocess.PIPE, text=True)
    assert again.stdout.readline().strip() == "GPU-1"
    for process in (*holders, again):
        process.kill()
        process.communicate()


def test_workers_see_the_one_device_only(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(devices, "_held", [])
    monkeypatch.setattr(devices.tempfile, "tempdir", str(tmp_path))
    found = [Gpu("GPU-0", "A"), Gpu("GPU-1", "B"), Gpu("GPU-2", "A")]
    monkeypatch.setattr(devices, "gpus", lambda: found)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    devices.hold_one_gpu([{"device": "cpu"}])
    assert devices.os.environ["CUDA_VISIBLE_DEVICES"] == ""
    devices.hold_one_gpu([{"device": "cpu"}, {"device": "auto"}])
    assert devices.os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-0"
    devices._held[0].close()


def test_the_environment_names_one_model(monkeypatch) -> None:
    monkeypatch.setattr(environment, "gpus", lambda: [Gpu("0", "NVIDIA A"), Gpu("1", "NVIDIA A")])
    assert environment.describe()["gpu"] == "NVIDIA A"
