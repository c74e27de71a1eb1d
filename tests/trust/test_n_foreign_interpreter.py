"""Kind N: a variant's `python` may be an environment with an older stack, from Diffusers 0.31 on.

`make older` makes the environment: Diffusers 0.31.0 and transformers 4.48.3 on this environment's torch.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from backends.base import Case
from harness.cli import main
from harness.errors import WorkerError
from harness.store.store import Store
from harness.workers.client import RemoteError, WorkerProcess

PYTHON = Path(__file__).parents[2] / ".venv-older" / "bin" / "python"
CASE = Case(
    name="quick", model="micro-2b", prompt="a red circle moving left on a white background",
    negative_prompt="", frames=9, height=64, width=64, steps=2, guidance_scale=6.0,
    dynamic_guidance=False, sampler="ddim", fps=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def older() -> str:
    if not PYTHON.is_file():
        pytest.fail("there is no environment with an older stack; make it with `make older`")
    return str(PYTHON)


@pytest.fixture(scope="module")
def worker(older: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[WorkerProcess]:
    log = tmp_path_factory.mktemp("older") / "worker.log"
    with WorkerProcess(older, 1, log, [], "diffusers") as process:
        yield process


def _open(worker: WorkerProcess, model: str = "micro-2b", **options: Any) -> dict[str, Any]:
    backend = "diffusers_offload" if "placement" in options else "diffusers"
    variant = {"name": "older", "backend": backend, "options": options, "patch": None}
    return worker.call("open", 120, variant=variant, model=model, plugins=[], threads=1)


def _latents(worker: WorkerProcess, folder: Path) -> str:
    request = {
        "case": vars(CASE), "seed": 0, "inputs": None, "share": [], "trace": {"probe_steps": [0]},
        "folder": str(folder), "member": "plain",
    }  # fmt: skip
    return worker.call("render", 120, request=request)["latents_digest"]


def test_it_is_the_stack_that_is_supported_last(older: str, worker: WorkerProcess) -> None:
    versions = worker.call("describe", 60)
    assert versions["diffusers"] == "0.31.0"
    assert versions["transformers"].startswith("4.48.")


def test_the_current_stack_against_an_older_one(
    older: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = [
        "case=[micro_2b_quick]", "cases.micro_2b_quick.steps=2", "candidate=[]",
        "+backend@candidates.older=diffusers", f"candidates.older.python={older}",
        "metrics=[psnr]", "judge.rerun=false", "judge.probe_seeds=[0,1]",
        "judge.calibration_seeds=[1000001]",
    ]  # fmt: skip
    code = main(["run", *settings])
    said = capsys.readouterr().out
    assert code == 0, said
    verdict = json.loads(Path("results/latest/verdict.json").read_text())
    (pair,) = verdict["pairs"]
    assert pair["verdict"] in ("bit_exact", "rounding")
    versions = {
        render.variant["name"]: render.environment["diffusers"]
        for render in Store(Path("results/store")).renders()
    }
    assert versions["older"] == "0.31.0"
    assert versions["diffusers"] != "0.31.0"


def test_every_dtype_and_placement_that_it_has(worker: WorkerProcess, tmp_path: Path) -> None:
    """Dtypes of single components are a mapping to Diffusers from 0.34 on; a module under two names
    (T5's embedding before transformers 5) gets two offload hooks."""
    opened = _open(worker, dtype="bfloat16", vae_dtype="float32", text_dtype="float16")
    dtypes = opened["identity"]["dtypes"]
    assert "bfloat16" in dtypes["transformer"]
    assert "float32" in dtypes["vae"]
    assert "float16" in dtypes["text_encoder"]
    digests: set[str] = set()
    for placement in ("full", "model_offload", "sequential_offload"):
        whole = _open(worker, placement=placement)["identity"]["weights"]
        digests.add(_latents(worker, tmp_path))
        assert "text_encoder.shared.weight" in whole
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("model", "options", "outcome", "message"),
    [
        ("micro-1.5-5b", {}, "unsupported", "0.32 or later"),
        ("micro-1.5-5b-i2v", {}, "unsupported", "0.32 or later"),
        ("micro-2b", {"cache": "pab"}, "unsupported", "0.31.0 has no Pyramid"),
        ("micro-2b", {"placement": "group_offload_leaf"}, "unsupported", "group offloading"),
        # 0.31 does not read alpha from a file's metadata, and would use twice the factor.
        ("micro-5b", {"lora": "micro-5b-magenta"}, "error", "factor 1, the file says 0.5"),
    ],
)
def test_what_it_has_not_is_said_by_name(
    worker: WorkerProcess, model: str, options: dict[str, Any], outcome: str, message: str
) -> None:
    with pytest.raises(RemoteError) as caught:
        _open(worker, model, **options)
    assert caught.value.outcome == outcome
    assert message in str(caught.value)
    assert caught.value.trace is None


def test_its_own_code_in_a_model_folder_is_refused(worker: WorkerProcess, tmp_path: Path) -> None:
    """This version of Diffusers runs it."""
    from backends.micro import model_path

    marker, folder = tmp_path / "attacked", tmp_path / "model"
    for path in sorted(model_path("micro-2b").rglob("*")):
        (folder / path.relative_to(model_path("micro-2b"))).parent.mkdir(
            parents=True, exist_ok=True
        )
        if path.is_file():
            (folder / path.relative_to(model_path("micro-2b"))).symlink_to(path)
    (folder / "transformer" / "mine.py").write_text(f"open({str(marker)!r}, 'w')\nclass T: ...\n")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").unlink()
    index["transformer"] = ["mine", "T"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(RemoteError, match="never run"):
        _open(worker, str(folder))
    assert not marker.exists()


def test_an_interpreter_without_the_stack_says_so(older: str, tmp_path: Path) -> None:
    """In one sentence, not with the traceback of an import."""
    bare = tmp_path / "bare"
    base = Path(os.path.realpath(older))
    subprocess.run([base, "-m", "venv", "--without-pip", bare], check=True)
    python = str(bare / "bin" / "python")
    with (
        WorkerProcess(python, 1, tmp_path / "worker.log", [], "diffusers") as process,
        pytest.raises(WorkerError, match="has no module 'numpy'; install torch") as caught,
    ):
        _open(process)
    assert python in str(caught.value)
    assert "Traceback" not in str(caught.value)
