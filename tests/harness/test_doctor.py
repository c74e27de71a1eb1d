"""What the doctor says when things work, are missing, or crash."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from backends.worker.extras import EXTRAS, Extra
from harness.cli import main
from harness.doctor import doctor
from harness.doctor.doctor import Row
from harness.errors import WorkerError
from harness.workers.client import RemoteError


def failure(outcome: str, kind: str, message: str) -> RemoteError:
    answer = {"outcome": outcome, "kind": kind, "message": message, "trace": None}
    return RemoteError(answer)


class FakeWorker:
    """Stands for a worker process; `answers` are the results of `open`, one for each dtype."""

    started = 0
    answers: ClassVar[dict[str, Exception]] = {}

    def __init__(self, *_: object) -> None:
        type(self).started += 1

    def __enter__(self) -> "FakeWorker":
        return self

    def __exit__(self, *_: object) -> None: ...

    def call(self, op: str, _: float, **arguments: Any) -> dict[str, Any]:
        if op == "render":
            return {"render_s": 1.0, "steps": [{"latents_finite": True}]}
        dtype = arguments["variant"]["options"]["dtype"]
        if dtype in self.answers:
            raise self.answers[dtype]
        return {"open_s": 1.0}


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorker]:
    monkeypatch.setattr(doctor, "WorkerProcess", FakeWorker)
    monkeypatch.setattr(FakeWorker, "started", 0)
    monkeypatch.setattr(FakeWorker, "answers", {})
    return FakeWorker


def states(backend: str) -> dict[str, str]:
    return {row.what: row.state for row in doctor._backend(backend, "cpu")}


def test_a_backend_is_tried_in_every_dtype_by_one_worker(worker: type[FakeWorker]) -> None:
    assert states("sat") == {
        "cpu float32": "works", "cpu bfloat16": "works", "cpu float16": "works",
    }  # fmt: skip
    assert worker.started == 1


def test_what_a_stack_cannot_do_is_not_a_failure(worker: type[FakeWorker]) -> None:
    worker.answers = {"float16": failure("unsupported", "Unsupported", "no such kernel")}
    assert states("sat")["cpu float16"] == "unsupported"


def test_a_missing_package_is_said_once(worker: type[FakeWorker]) -> None:
    missing = failure("error", "MissingPrerequisite", "run: pip install sat")
    worker.answers = dict.fromkeys(("float32", "bfloat16", "float16"), missing)
    (row,) = doctor._backend("sat", "cpu")
    assert (row.state, row.needed) == ("fails", True)
    assert "pip install sat" in row.detail


def test_an_extra_that_is_not_installed_is_named_and_the_demo_waits_for_it(
    worker: type[FakeWorker], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(EXTRAS, "sat", Extra("backend `sat`", {"no_such_module": "SAT"}))
    monkeypatch.setattr(doctor, "_probe", lambda _: [])
    assert main(["doctor", "--json"]) == 0
    rows = {(r["area"], r["what"]): r for r in json.loads(capsys.readouterr().out)["rows"]}
    command = "pip install 'cogvideox-parity[sat]'"
    assert (rows["extra", "sat"]["state"], rows["extra", "sat"]["remedy"]) == (
        "unsupported",
        command,
    )
    assert rows["extra", "export"]["state"] == "works"
    assert [what for area, what in rows if area == "backend sat"] == ["not installed"]
    assert rows["backend diffusers", "cpu float32"]["state"] == "works"
    main(["doctor"])
    assert "The demo needs more: " + command in " ".join(capsys.readouterr().out.split())


def test_a_crash_is_a_row_and_the_next_dtype_gets_a_new_worker(worker: type[FakeWorker]) -> None:
    worker.answers = {"float32": WorkerError("the worker died (signal SIGSEGV)")}
    assert states("sat") == {
        "cpu float32": "fails", "cpu bfloat16": "works", "cpu float16": "works",
    }  # fmt: skip
    assert worker.started == 2


def test_the_video_codec_is_really_tried() -> None:
    (row,) = doctor._probe("video")
    assert (row.what, row.state, row.needed) == ("FFV1", "works", True)


def test_lpips_names_its_weights_and_whether_they_were_compared() -> None:
    rows = {row.what: row for row in doctor._probe("metrics")}
    assert rows["lpips"].state == "works"
    assert "AlexNet of " in rows["lpips"].detail
    assert (
        "not compared: " in rows["lpips weights"].detail or "equal" in rows["lpips weights"].detail
    )


def test_without_weights_the_doctor_names_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    row = next(row for row in doctor._probe("metrics") if row.what == "lpips")
    assert (row.state, row.remedy) == ("fails", "parity fetch lpips")


def test_a_crash_of_a_probe_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = doctor._probe("no_such_probe")
    assert (row.state, row.needed) == ("fails", True)
    assert "no_such_probe" in row.detail


def test_a_results_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    row = doctor._writable(tmp_path / "a" / "b")
    assert row.state == "works"
    assert str(tmp_path) in row.detail
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("state", "needed", "exit_code"), [
    ("works", True, 0), ("fails", False, 0), ("unsupported", True, 2), ("fails", True, 2),
])  # fmt: skip
def test_the_exit_code_says_whether_the_demo_can_run(
    state: doctor.State,
    needed: bool,
    exit_code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = "curl -fL -o " + "/a/long/path" * 20

    def rows(*_: object) -> Iterator[Row]:
        yield Row("metric", "lpips", state, "no weights", command, needed)

    monkeypatch.setattr(doctor, "examine", rows)
    assert main(["doctor"]) == exit_code
    shown = "".join(line.strip() for line in capsys.readouterr().out.splitlines())
    assert "/a/long/path" * 20 in shown, "a command to copy must not be cut off"
    assert main(["doctor", "--json"]) == exit_code
    answer = json.loads(capsys.readouterr().out)
    assert answer["ready"] is (exit_code == 0)
    assert answer["rows"][0]["remedy"] == command


def test_this_interpreter_is_the_one_that_is_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    (row,) = doctor._probe("video")
    assert row.state == "fails"
