"""Every command that README.md and docs/ show is carried out, at its cheapest setting.

`parity run` and its kin really render, judge and report, in this process: the smallest case that every
stack takes. What cannot run here (CUDA, weights that are not here, a Slurm cluster) is composed
and planned. Where another test carries a command out, it is named and looked up.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tomllib
import yaml

from harness.cli import main
from harness.config.compose import split_sweep
from harness.config.config import RunConfig
from harness.config.folders import choices, conf_folders
from harness.records import RunResult
from harness.render.plan import make_plan
from harness.verdict import session
from harness.workers.connect import in_process

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXTENDING = ROOT / "docs" / "extending.md"
RENDERING = ("run", "render", "score", "judge", "probe")
NEEDS = {"cuda": "an NVIDIA GPU", "/models/": "weights", "hydra/launcher=slurm": "a cluster"}
ELSEWHERE = {
    "parity bisect experiment=incident/local_vs_space": "tests/test_incidents.py::test_local_vs_space",
    "parity selftest 'case=[micro_5b]'": "tests/harness/test_selftest.py::main([\"selftest\"",
    "parity doctor": "tests/harness/test_doctor.py::main([\"doctor\"]",
    "parity roundtrip MODEL --backend diffusers": "tests/roundtrip/test_driven.py::roundtrip",
    "parity roundtrip micro-5b-i2v --backend diffusers": "tests/roundtrip/test_driven.py::roundtrip",
    "parity roundtrip --before ORIGINAL --after FINETUNED": "tests/roundtrip/test_pairs.py::before",
    "parity roundtrip micro-5b --backend diffusers --mode lora --no-lora-metadata":
        "tests/roundtrip/test_driven.py::metadata",
    "parity export --mlflow http://mlflow.example:5000 --experiment cogvideox":
        "tests/report/test_tracking.py::--mlflow",
    "parity fetch lpips": "tests/metrics/test_lpips_sources.py::main([\"fetch\", \"lpips\"]",
    "pytest --parity-accept": "tests/harness/test_pytest_plugin.py::--parity-accept",
}  # fmt: skip
PLACEHOLDERS = {"BEFORE": "micro-2b", "AFTER": "micro-2b"}
FENCE = re.compile(
    r"(?:`(?P<path>[\w./-]+)`[^`\n]*:\n)?```(?P<kind>\w*)\n(?P<text>.*?)```", re.DOTALL
)


def commands() -> list[str]:
    """Every command in a block without a language, without its remark; `EXTENDING` has its own test."""
    pages = [page for page in PAGES if page != EXTENDING]
    lines = [line for page in pages for block in blocks(page, "") for line in block.splitlines()]
    shown = [re.split(r"\s+# ", line)[0] for line in lines]
    return list(
        dict.fromkeys(line for line in shown if re.match(r"(parity|pytest|make)(\s|$)", line))
    )


def blocks(page: Path, kind: str) -> Iterator[str]:
    yield from (m["text"] for m in FENCE.finditer(page.read_text()) if m["kind"] == kind)


def files(page: Path) -> dict[str, str]:
    """The files that a page tells the reader to write."""
    return {m["path"]: m["text"] for m in FENCE.finditer(page.read_text()) if m["path"]}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of a run, as a reader has one after the first commands."""
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(session, "run", partial(cheap_run, session.run))
        assert main(["run", "case=[micro_5b_quick]", "candidate=[diffusers_model_offload]"]) == 0
    base = folder.parent / "base" / ".venv" / "bin"  # the other environment that a command names
    base.mkdir(parents=True)
    (base / "python").symlink_to(sys.executable)
    return folder


def cheap_run(
    real: Callable[..., Any],
    config: RunConfig,
    plugins: Any,
    command: Any,
    progress: Any,
    until: Any = "judge",
    **_: Any,
) -> tuple[Path, RunResult | None]:
    """The run of one small case and one candidate; only planned where something is not here."""
    if impossible(" ".join(command)):
        assert make_plan(config).jobs
        return Path(), RunResult(run="planned", created="2026-01-01T00:00:00+00:00",
                                 command=list(command), config={}, pairs=[], exit_code=0)  # fmt: skip
    small = replace(config.cases[-1], frames=9, height=64, width=64, steps=2)
    cheaper = config.model_copy(
        update={
            "cases": (small,),
            "candidates": config.candidates[-1:],
            "seeds": config.seeds[:1],
            "metrics": {k: v for k, v in config.metrics.items() if k in ("psnr", "brightness")},
            "judge": config.judge.model_copy(
                update={"probe": False, "rerun": False, "probe_seeds": (0, 1)}
            ),
        }
    )
    return real(cheaper, plugins, command, progress, until, connect=in_process)


def full_run(real: Callable[..., Any], config: RunConfig, *given: Any, **more: Any) -> Any:
    """The whole procedure, with the fewest seeds that it takes."""
    few = {"probe_seeds": (0, 1), "rerun": False}
    judge = config.judge.model_copy(update=few)
    return real(config.model_copy(update={"judge": judge}), *given, connect=in_process, **more)


def impossible(command: str) -> str | None:
    return next((why for word, why in NEEDS.items() if word in command), None)


@pytest.mark.parametrize("command", commands())
def test_a_shown_command_does_what_it_says(
    command: str, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    monkeypatch.delenv("CI", raising=False)
    name, *arguments = shlex.split(command, comments=True)
    if command in ELSEWHERE:
        path, _, word = ELSEWHERE[command].partition("::")
        assert word in (ROOT / path).read_text(), f"{path} no longer carries out {command}"
        return
    if name == "make":
        subprocess.run(["make", "-n", *arguments], cwd=ROOT, check=True, capture_output=True)
        return
    assert name == "parity", f"no test knows how to carry out {command}"
    if arguments[0] in RENDERING:
        arguments = without_launcher(arguments)
        monkeypatch.setattr(session, "run", partial(cheap_run, session.run))
        if impossible(command):
            monkeypatch.setattr("harness.report.write", lambda folder, store: folder)
    # 2 is a mistake of the page; an unexpected exception ends with 2 as well
    assert main([PLACEHOLDERS.get(argument, argument) for argument in arguments]) in (0, 1, 3)


def without_launcher(arguments: list[str]) -> list[str]:
    """The same sweep by Hydra's own launcher: others' processes know nothing of this test."""
    named = [a.partition("=")[2] for a in arguments if a.startswith("hydra/launcher=")]
    assert set(named) <= set(choices("hydra/launcher", conf_folders(None)))
    if named:
        overrides = [a for a in arguments[1:] if a != "-m"]
        assert len(split_sweep(overrides, conf_folders(None))) > 1
    return [a for a in arguments if not a.startswith(("hydra/launcher", "hydra.launcher"))]


@pytest.mark.timeout(1800)  # the whole procedure, on a machine that may be busy
def test_the_package_of_the_extending_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files as they stand there, its command as it stands there, and the verdict that it names."""
    for path, text in files(EXTENDING).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    points = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]["entry-points"]
    info = tmp_path / "my_parity-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-parity\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        "\n".join(
            f"[{group}]\n" + "\n".join(f"{name} = {value}" for name, value in rows.items())
            for group, rows in points.items()
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "run", partial(full_run, session.run))
    (command,) = (line for block in blocks(EXTENDING, "") for line in block.splitlines())
    assert main(shlex.split(command)[1:]) == 0
    result = RunResult.model_validate_json((tmp_path / "results/latest/verdict.json").read_bytes())
    (pair,) = result.pairs
    assert pair.verdict == "rounding"
    assert set(pair.scores) == {"psnr", "brightness"}
    assert 0 < float(pair.scores["brightness"][0]["value"]) < 1


def test_code_and_workflows_of_the_pages_are_those_that_are_tested() -> None:
    sample = (ROOT / "tests" / "sample_repo" / "test_port.py").read_text()
    (shown,) = blocks(ROOT / "docs" / "ci.md", "python")
    assert shown in sample
    workflows = files(ROOT / "docs" / "ci.md")
    assert len(workflows) == 2
    for text in workflows.values():
        document = yaml.safe_load(text)
        for job in document["jobs"].values():
            if "uses" in job:
                name = re.search(r"\.github/workflows/([\w-]+\.yml)@", job["uses"])
                assert name is not None
                called = yaml.safe_load((ROOT / ".github" / "workflows" / name[1]).read_text())
                assert set(job["with"]) <= set(called[True]["workflow_call"]["inputs"])
            for step in job.get("steps", []):
                if step.get("run", "").startswith("parity "):
                    assert f"{step['run']}\n" in (ROOT / "docs" / "ci.md").read_text()


def test_the_pages_say_nothing_of_extras_or_files_that_are_not_there() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for page in PAGES:
        text = page.read_text()
        assert set(re.findall(r"cogvideox-parity\[(\w+)\]", text)) <= set(extras)
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
        for path in re.findall(r"`((?:tests|backends|harness|conf|docs)/[\w./-]+)`", text):
            assert (ROOT / path).exists(), f"{page.name} names {path}"
