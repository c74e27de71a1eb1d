"""The command: verbs, help, exit codes, failures, sweeps. Runs themselves are replaced."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import harness
from backends.errors import MissingPrerequisite
from harness import report
from harness.cli import main
from harness.config.config import RunConfig
from harness.errors import WorkerError
from harness.records import RunResult
from harness.verdict import session

VERBS = ("run", "render", "score", "judge", "report", "convert", "doctor", "ls")
Fake = Callable[[RunConfig], tuple[Path, RunResult | None]]


def result(exit_code: int) -> RunResult:
    return RunResult(
        run="r", created="2026-01-01T00:00:00+00:00", command=["parity"], config={}, pairs=[],
        exit_code=exit_code,
    )  # fmt: skip


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Replace runs by a record of how each was asked for; seed 9 ends with a bug."""
    asked: list[dict[str, Any]] = []

    def fake(
        config: RunConfig, plugins: Sequence[str], command: Sequence[str], progress: object,
        until: str = "judge", **_: Any,
    ) -> tuple[Path, RunResult | None]:  # fmt: skip
        asked.append({"config": config, "plugins": plugins, "command": command, "until": until})
        return tmp_path, result(1 if 9 in config.seeds else 0)

    monkeypatch.setattr(session, "run", fake)
    monkeypatch.setattr(report, "print_matrix", lambda *_: None)
    monkeypatch.setattr(report, "write", lambda folder, _: folder / "index.html")
    monkeypatch.chdir(tmp_path)
    return asked


def failing(error: BaseException) -> Callable[..., None]:
    def run(*_: object, **__: object) -> None:
        raise error

    return run


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"\n  parity {verb}" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_help_names_every_verb_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {verb} " in shown for verb in VERBS)
    assert all(f"{code} " in shown for code in range(4))


def test_without_a_verb_it_is_a_mistake() -> None:
    assert main([]) == 2


def test_a_misspelt_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rnu"]) == 2
    assert "there is no verb 'rnu'; did you mean 'run'?" in capsys.readouterr().err


def test_a_misspelt_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--plugins", "x"]) == 2
    assert "unrecognized arguments" in capsys.readouterr().err


def test_settings_and_options_mix_freely(sessions: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "my_patches.py").write_text("")
    line = ["run", "seeds=[1]", "--plugin", "my_patches", "+backend@candidates.b=sat"]
    assert main(line) == 0
    assert sessions[0]["config"].seeds == (1,)
    assert list(sessions[0]["plugins"]) == ["my_patches"]
    assert {"seeds=[1]", "+backend@candidates.b=sat"} <= set(sessions[0]["command"])
    assert [candidate.name for candidate in sessions[0]["config"].candidates] == ["sat", "b"]


def test_a_plugin_that_does_not_exist(
    sessions: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--plugin", "no_such_module"]) == 2
    assert "no_such_module" in capsys.readouterr().err
    assert sessions == []


def test_run_and_judge_hand_on_the_exit_code_of_the_verdicts(
    sessions: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "seeds=[9]"]) == 1
    assert "index.html" in capsys.readouterr().out
    assert main(["judge", "seeds=[9]"]) == 1
    assert "index.html" not in capsys.readouterr().out
    assert [asked["until"] for asked in sessions] == ["judge", "judge"]


def test_a_hazard_is_shown_and_does_not_stop(
    sessions: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "cases.micro_2b_quick.dynamic_guidance=true"]) == 0
    assert "parity: warning: case micro_2b_quick: dynamic guidance" in capsys.readouterr().err
    assert len(sessions) == 1


@pytest.mark.parametrize(
    ("statuses", "exit_code"),
    [
        (["ok", "ok, from the store"], 0),
        (["ok", "unsupported"], 0),
        (["unsupported"], 3),
        (["ok", "error"], 2),
        (["ok", "not_run"], 2),
    ],
)
def test_render_says_how_its_renders_ended(
    statuses: list[str],
    exit_code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fake(*args: Any, until: str, **_: Any) -> tuple[Path, None]:
        assert until == "render"
        for status in statuses:
            args[3].render_finished("label", status, 1.0)
        return Path(), None

    monkeypatch.setattr(session, "run", fake)
    assert main(["render"]) == exit_code
    assert "renders: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "exit_code", "message"),
    [
        (WorkerError("the worker died"), 2, "parity: the worker died"),
        (MissingPrerequisite("pip install sat"), 2, "parity: pip install sat"),
        (KeyboardInterrupt(), 130, "parity: interrupted"),
        (OSError(errno.ENOSPC, "No space left on device", "x.mkv"), 2, "no space left on the disk"),
        (ZeroDivisionError("oh"), 2, "unexpected ZeroDivisionError: oh"),
    ],
)
def test_every_failure_is_one_message(
    error: BaseException,
    exit_code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("PARITY_DEBUG", raising=False)
    monkeypatch.setattr(session, "run", failing(error))
    assert main(["run"]) == exit_code
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_the_traceback_is_there_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PARITY_DEBUG", "1")
    monkeypatch.setattr(session, "run", failing(ZeroDivisionError("oh")))
    assert main(["run"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_termination_ends_in_order(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def terminated(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(session, "run", terminated)
    assert main(["run"]) == 130
    assert "parity: interrupted" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_reader_that_goes_away_is_no_defect() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [sys.executable, "-m", "harness", "--help"],
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(harness.__file__).parents[1],
        check=False,
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_sweep_runs_every_combination_and_reports_the_worst(
    sessions: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "seeds=0,9", "-m", "match=shared,native"]) == 1
    seen = [(a["config"].seeds, a["config"].match.schedule) for a in sessions]
    assert seen == [((0,), "shared"), ((0,), "own"), ((9,), "shared"), ((9,), "own")]
    outcomes = [json.loads(p.read_text()) for p in tmp_path.glob("results/sweeps/*/*/outcome.json")]
    assert sorted(outcome["exit_code"] for outcome in outcomes) == [0, 0, 1, 1]
    assert "4 of 4 jobs finished" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_a_sweep_goes_on_after_a_failed_job(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "run", failing(WorkerError("the worker died")))
    assert main(["render", "-m", "seeds=0,1"]) == 2
    shown = capsys.readouterr()
    assert shown.err.count("the worker died") == 2
    assert "2 of 2 jobs finished" in shown.out


def test_an_interrupted_sweep_stops(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "run", failing(KeyboardInterrupt()))
    assert main(["render", "-m", "seeds=0,1"]) == 130
    assert "job 1" not in capsys.readouterr().out


def test_ls_of_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "--store", str(tmp_path / "none")]) == 2
    assert "there is no store" in capsys.readouterr().err


def test_report_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "verdict.json cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("line", [["ls"], ["report"]])
def test_reading_verbs_import_nothing_heavy(line: list[str], tmp_path: Path) -> None:
    (tmp_path / "results" / "store").mkdir(parents=True)
    (tmp_path / "results" / "latest").mkdir()
    (tmp_path / "results" / "latest" / "verdict.json").write_text(
        result(0).model_copy(update={"config": {"store": "results/store"}}).model_dump_json()
    )
    code = (
        "import sys\nfrom harness.cli import main\ncode = main(sys.argv[1:])\n"
        "heavy = {'torch', 'diffusers', 'sat', 'hydra', 'cv2', 'skimage', 'lpips', 'scipy'}\n"
        "print(code, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *line],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(harness.__file__).parents[1])},
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr
