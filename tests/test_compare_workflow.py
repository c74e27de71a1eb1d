"""The reusable workflow that compares a pull request with its base: its own shell lines, carried out."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from backends.worker.environment import sources_digest
from harness.render.plan import make_plan
from harness.store.keys import inputs_key

ROOT = Path(__file__).parents[1]
FAKE = ROOT / "tests" / "sweeps" / "fake"
WORKFLOW = ROOT / ".github" / "workflows" / "parity-compare.yml"
FROZEN = ".expand(case.frames, -1, -1, -1).contiguous()"
MOVING = " * torch.linspace(0.5, 1, case.frames).view(-1, 1, 1, 1)"
CANDIDATE = "# @package candidates.fake\ndefaults: [/backend@_here_: fake, _self_]\nmatch: null\n"


def step(name: str) -> dict[str, Any]:
    document = yaml.safe_load(WORKFLOW.read_text())
    return next(s for s in document["jobs"]["compare"]["steps"] if s.get("name") == name)


def script(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def change(checkout: Path, old: str, new: str) -> None:
    source = checkout / "parity_fake.py"
    assert old in source.read_text()
    source.write_text(source.read_text().replace(old, new))


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Two checkouts of a package with a backend, each with an environment that has its own."""
    for side in ("base", "head"):
        shutil.copytree(FAKE, tmp_path / side)
        change(tmp_path / side, FROZEN, MOVING)
        places = f"{ROOT}:{tmp_path / side}" if side == "head" else tmp_path / side
        script(
            tmp_path / side / ".venv" / "bin" / "python",
            f'PYTHONPATH="{places}" exec {sys.executable} "$@"',
        )
    (tmp_path / "head" / "conf" / "candidate" / "fake.yaml").write_text(CANDIDATE)
    parity = tmp_path / "head" / ".venv" / "bin" / "parity"
    script(parity, f'exec {parity.parent / "python"} -m harness "$@"')
    return tmp_path


def compare(workspace: Path) -> tuple[int, dict[str, Any]]:
    settings = "--config-dir conf case=[instant] seeds=[0,1] judge.probe=false judge.rerun=false"
    work = step("Compare")
    done = subprocess.run(
        ["bash", "-e", "-c", work["run"]],
        cwd=workspace / work["working-directory"],
        env=dict(os.environ, GITHUB_WORKSPACE=str(workspace), BACKEND="fake", OMP_NUM_THREADS="1",
                 SETTINGS=f"{settings} metrics=[psnr]"),
        capture_output=True,
        text=True,
    )  # fmt: skip
    summary = workspace / "summary.md"
    subprocess.run(
        ["bash", "-e", "-c", step("Job summary")["run"]],
        cwd=workspace / "head",
        env=dict(os.environ, GITHUB_STEP_SUMMARY=str(summary)),
        check=True,
    )
    path = workspace / "head" / "results" / "latest" / "verdict.json"
    assert path.is_file(), done.stderr
    (pair,) = json.loads(path.read_text())["pairs"]
    assert f"**{pair['verdict'].replace('_', chr(92) + '_')}**" in summary.read_text()
    return done.returncode, pair


def test_a_pull_request_that_changes_nothing_is_equal_to_its_base(workspace: Path) -> None:
    code, pair = compare(workspace)
    assert (code, pair["verdict"], pair["reference"]) == (0, "bit_exact", "base")


def test_a_pull_request_that_changes_the_code_is_seen(workspace: Path) -> None:
    """Versions, options and hardware are the same: the sources alone tell the two commits apart."""
    change(workspace / "head", "latents * 0.5", "latents * 0.5001")
    code, pair = compare(workspace)
    assert (code, pair["verdict"]) == (3, "inconclusive")
    assert pair["distances"][0]["first_step"] == 0
    assert pair["renders"]["reference"] != pair["renders"]["candidate"]


def test_code_of_another_backend_leaves_a_render_where_it_is() -> None:
    from harness.config.compose import compose_tree
    from harness.config.config import build
    from harness.config.folders import conf_folders

    job = make_plan(build(compose_tree([], conf_folders(None)))).jobs[0]
    keys = {
        code: inputs_key(job.case, job.variant, {"torch": "2", **code_of}, 1, ())
        for code, code_of in {
            "none": {}, "other": {"code.port": "a"}, "own": {"code.diffusers": "a"},
            "own, changed": {"code.diffusers": "b"},
        }.items()
    }  # fmt: skip
    assert keys["none"] == keys["other"]
    assert len(set(keys.values())) == 3


def test_sources_are_told_apart_without_running_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    digests: list[str] = []
    for text in ("raise SystemExit", "raise SystemExit(1)"):
        (tmp_path / "some_port").mkdir(exist_ok=True)
        (tmp_path / "some_port" / "__init__.py").write_text(text)
        sources_digest.cache_clear()
        digests.append(sources_digest("some_port"))
    assert digests[0] != digests[1]
    assert sources_digest("no_such_port") == "missing"
