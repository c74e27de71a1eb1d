"""An installed wheel works in an empty folder: configuration, templates and models travel with it."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps",
               "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]  # fmt: skip
    subprocess.run(command, check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_everything_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "harness/conf/config.yaml",
        "harness/conf/experiment/demo.yaml",
        "backends/micro/weights/micro-2b/model_index.json",
        "backends/micro/weights/micro-5b/transformer/diffusion_pytorch_model.safetensors",
    ):
        assert needed in names
    assert any(name.startswith("harness/report/templates/") for name in names)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"harness", "backends"}


@pytest.mark.slow
def test_a_run_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, *install], check=True)
    env = {**os.environ, "PYTHONPATH": str(site)}
    where = subprocess.run(
        [sys.executable, "-c", "import harness; print(harness.__file__)"],
        cwd=empty, env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(site))
    arguments = ["case=micro_2b_quick", "candidate=[diffusers_model_offload]", "judge.rerun=false"]
    ran = subprocess.run(
        [sys.executable, "-m", "harness", "run", *arguments],
        cwd=empty, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    verdict = json.loads((empty / "results" / "latest" / "verdict.json").read_text())
    assert [pair["verdict"] for pair in verdict["pairs"]] == ["bit_exact"]
    assert {path.name for path in empty.iterdir()} == {"results"}
