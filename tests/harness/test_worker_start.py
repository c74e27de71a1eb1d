"""A forked worker is what a process of its own would be, and nothing outlives what started it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy
import pytest

import harness
from backends.base import Case, RenderRequest, TraceOptions, Variant
from harness.errors import WorkerError
from harness.workers import fork as worker_fork
from harness.workers import interpreter
from harness.workers import start as worker_start
from harness.workers.client import RemoteError, WorkerProcess

ROOT = Path(harness.__file__).parents[1]
CASE = Case(
    name="tiny", model="micro-2b", prompt="a red circle moving left on a white background",
    negative_prompt="", frames=9, height=64, width=64, steps=2, guidance_scale=6.0,
    dynamic_guidance=False, sampler="ddim", fps=8,
)  # fmt: skip
TELL = """
import json, os, sys, numpy
from pathlib import Path
facts = {"path": sys.path, "env": dict(os.environ), "folder": os.getcwd(), "pid": os.getpid(),
         "parent": os.getppid(), "drawn": numpy.random.rand(), "open": os.listdir("/proc/self/fd")}
Path(__file__).with_suffix(".json").write_text(json.dumps(facts))
"""
HANG = """
import subprocess, time
from pathlib import Path
child = subprocess.Popen(["sleep", "600"])
Path(__file__).with_suffix(".json").write_text(str(child.pid))
time.sleep(600)
"""
HARNESS = """
import sys, time
from pathlib import Path
from harness.workers import fork as worker_fork
from harness.workers.client import WorkerProcess
with WorkerProcess(sys.argv[1], None, Path(sys.argv[2]), []) as worker:
    worker.call("describe", 60)
    started = worker._process
    started.poll()
    print(started._server.process.pid, started._pid, flush=True)
    time.sleep(600)
"""

needs_fork = pytest.mark.skipif(not worker_start.can_fork(), reason="workers are not forked here")


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """An interpreter with numpy and no other package, with which a server is there at once."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for folder in Path(numpy.__file__).parents[1].glob("numpy*"):
        (packages / folder.name).symlink_to(folder)
    path = tmp_path / "bare-python"
    path.write_text(f'#!/bin/sh\nPYTHONPATH={packages} exec "{sys.executable}" -S "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture(params=[pytest.param("forked", marks=needs_fork), "own process"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to start a worker."""
    if request.param == "own process":
        monkeypatch.setattr(worker_start, "_DRIVERS", ("/dev/null",))
    return request.param


def _plugin(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "told.py").write_text(text)
    return folder


def _load(worker: WorkerProcess, timeout_s: float = 120) -> None:
    """Have a worker import its plugin `told`, which registers nothing."""
    variant = asdict(Variant("none", "none", {}, "told"))
    arguments = {"variant": variant, "model": "", "plugins": ["told"], "threads": None}
    with pytest.raises(RemoteError, match="registers no patch"):
        worker.call("open", timeout_s, **arguments)


def _told(folder: Path) -> dict:
    return json.loads((folder / "told.json").read_text())


def _gone(pid: int, within_s: float = 10) -> bool:
    """Whether a process ends, or is left for a parent to reap, in time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@needs_fork
def test_two_workers_of_one_server_know_nothing_of_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [_plugin(tmp_path / name, TELL) for name in ("one", "two")]
    with contextlib.ExitStack() as stack:
        workers = []
        for folder in folders:
            monkeypatch.chdir(folder)
            monkeypatch.setenv("COLUMNS", folder.name)
            worker = WorkerProcess(None, 1, tmp_path / f"{folder.name}.log", [str(folder)])
            workers.append(stack.enter_context(worker))
        for worker in reversed(workers):
            _load(worker)
    one, two = (_told(folder) for folder in folders)
    assert one["parent"] == two["parent"] != os.getpid()
    assert one["drawn"] != two["drawn"]
    for told, folder, other in ((one, *folders), (two, *reversed(folders))):
        assert "COLUMNS" not in told["env"]
        assert told["env"]["OMP_NUM_THREADS"] == "1"
        assert told["folder"] == str(folder)
        assert told["path"][0].rpartition("/")[2].startswith("parity-worker-")
        assert told["path"][-1] == str(folder)
        assert str(other) not in told["path"]
        assert "" not in told["path"]
    assert len(one["open"]) == len(two["open"])


@needs_fork
def test_another_environment_is_another_server(
    tmp_path: Path, bare: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = set()
    for offline in ("0", "1", "0"):
        monkeypatch.setenv("HF_HUB_OFFLINE", offline)
        with WorkerProcess(bare, None, tmp_path / "log", []) as worker:
            servers.add(worker._process._server.process.pid)
    assert len(servers) == 2


def test_what_an_interpreter_exports_reaches_its_workers(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the key, so it must act: what a script says now, and what it said before no more."""
    script, folder = tmp_path / "python", _plugin(tmp_path / "plugin", TELL)
    for value in ("default", "avx2"):
        script.write_text(
            f'#!/bin/sh\nexport ATEN_CPU_CAPABILITY={value}\nexec "{sys.executable}" "$@"\n'
        )
        script.chmod(0o755)
        monkeypatch.setattr(interpreter, "_said", {})  # as in a run that starts now
        with WorkerProcess(str(script), 1, tmp_path / "log", [str(folder)]) as worker:
            _load(worker)
        keyed = interpreter.describe_worker(str(script), 1)["$ATEN_CPU_CAPABILITY"]
        assert _told(folder)["env"]["ATEN_CPU_CAPABILITY"] == keyed == value


def test_the_flags_of_an_interpreter_are_in_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-O` takes assertions out of a stack; the path and the versions stay."""
    script, said = tmp_path / "python", set[str]()
    for flags in ("", "-O", "-OO"):
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {flags} "$@"\n')
        script.chmod(0o755)
        monkeypatch.setattr(interpreter, "_said", {})
        said.add(interpreter.describe_worker(str(script), 1)["interpreter"])
    assert len(said) == 3


def test_a_killed_worker_is_told_with_its_signal(tmp_path: Path, bare: str, way: str) -> None:
    log = tmp_path / "log"
    log.write_text("what was there\n")
    with WorkerProcess(bare, None, log, []) as worker:
        worker.call("describe", 60)
        started = worker._process
        assert started.poll() is None
        os.kill(started._pid if way == "forked" else started._process.pid, signal.SIGTERM)
        started.wait(10)
        with pytest.raises(WorkerError, match=r"died during `describe` \(signal SIGTERM\)") as told:
            worker.call("describe", 60)
    assert "what was there" in str(told.value)


def test_an_exit_of_the_worker_is_told_with_its_code(tmp_path: Path, way: str) -> None:
    folder = _plugin(tmp_path / "plugin", "import sys\nprint('last words')\nsys.exit(3)\n")
    with (
        WorkerProcess(None, 1, tmp_path / "log", [str(folder)]) as worker,
        pytest.raises(WorkerError, match=r"(?s)exit code 3\).*last words"),
    ):
        _load(worker)


def test_a_time_limit_ends_the_children_of_the_worker(tmp_path: Path, way: str) -> None:
    folder = _plugin(tmp_path / "plugin", HANG)
    with WorkerProcess(None, 1, tmp_path / "log", [str(folder)]) as worker:
        worker.call("describe", 120)
        with pytest.raises(WorkerError, match="longer than 12 s"):
            _load(worker, 12)
    assert _gone(int((folder / "told.json").read_text()))


@needs_fork
def test_a_worker_that_was_given_up_before_it_was_forked_ends(tmp_path: Path, bare: str) -> None:
    with WorkerProcess(bare, None, tmp_path / "log", []) as worker:
        server = worker._process._server.process
        os.kill(server.pid, signal.SIGSTOP)
        with pytest.raises(WorkerError, match=r"longer than 0\.1 s"):
            worker.call("describe", 0.1)
        os.kill(server.pid, signal.SIGCONT)
    with WorkerProcess(bare, None, tmp_path / "log", []) as worker:
        assert worker._process._server.process is server
        worker.call("describe", 60)
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
    deadline = time.monotonic() + 10
    while children.read_text().strip() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children.read_text().strip() == ""
    assert "Traceback" not in (tmp_path / "log").read_text()


@needs_fork
def test_a_killed_server_ends_its_worker_and_is_replaced(tmp_path: Path, bare: str) -> None:
    with WorkerProcess(bare, None, tmp_path / "log", []) as worker:
        worker.call("describe", 60)
        first = worker._process._server.process
        first.kill()
        assert worker._process.wait(10) == -signal.SIGKILL
        with pytest.raises(WorkerError, match="signal SIGKILL"):
            worker.call("describe", 60)
    with WorkerProcess(bare, None, tmp_path / "log", []) as worker:
        worker.call("describe", 60)
        assert worker._process._server.process.pid != first.pid


@needs_fork
@pytest.mark.parametrize("sibling", [False, True], ids=["alone", "with a forked sibling"])
def test_a_killed_harness_takes_server_and_worker_along(
    tmp_path: Path, bare: str, sibling: bool
) -> None:
    text = HARNESS
    if sibling:  # it holds copies of every pipe and socket, and outlives the harness
        text = text.replace(
            "    print(", "    import os\n    os.fork() or time.sleep(20)\n    print("
        )
    killed = subprocess.Popen(
        [sys.executable, "-c", text, bare, str(tmp_path / "log")],
        stdout=subprocess.PIPE, cwd=tmp_path, env=dict(os.environ, PYTHONPATH=str(ROOT)),
        start_new_session=True,
    )  # fmt: skip
    try:
        assert killed.stdout is not None
        server, worker = map(int, killed.stdout.readline().split())
        killed.kill()
        killed.wait()
        assert _gone(server)
        assert _gone(worker)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(killed.pid, signal.SIGKILL)


@needs_fork
def test_a_forked_harness_has_servers_of_its_own(tmp_path: Path, bare: str) -> None:
    with WorkerProcess(bare, None, tmp_path / "log", []) as worker:
        worker.call("describe", 60)
        server = worker._process._server.process.pid
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                with WorkerProcess(bare, None, tmp_path / "log", []) as other:
                    other.call("describe", 60)
                    code = 0 if other._process._server.process.pid != server else 2
                worker_fork._servers.end()
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        worker.call("describe", 60)


def test_an_interpreter_that_is_not_there(tmp_path: Path, way: str) -> None:
    with (
        pytest.raises(WorkerError, match=r"cannot start .*'/no/such'.*set `python`"),
        WorkerProcess("/no/such", None, tmp_path / "log", []),
    ):
        pass


def test_an_interpreter_that_is_none(tmp_path: Path, way: str) -> None:
    path = tmp_path / "no-python"
    path.write_text("#!/bin/sh\necho not a python >&2\nexit 9\n")
    path.chmod(0o755)
    with (
        pytest.raises(WorkerError, match=r"(?s)exit code 9.*not a python"),
        WorkerProcess(str(path), None, tmp_path / "log", []) as worker,
    ):
        worker.call("describe", 60)


def _answers(folder: Path, backend: str, threads: int | None) -> Iterator[object]:
    """All that a worker says of a pipeline and of its render, but for times and memory."""
    request = RenderRequest(CASE, 0, None, [], TraceOptions([0, 1]), str(folder)).to_json()
    with WorkerProcess(None, threads, folder / "log", [], backend) as worker:
        yield worker.call("describe", 120)
        variant = asdict(Variant(backend, backend, {"dtype": "float32"}, None))
        opened = worker.call(
            "open", 120, variant=variant, model=CASE.model, plugins=[], threads=threads
        )
        yield {**opened, "open_s": None}
        yield worker.call("export", 120, case=asdict(CASE), path=str(folder / "own.safetensors"))
        rendered = worker.call("render", 120, request=request)
        yield {**rendered, "render_s": None, "peak_gib": None}
        yield (folder / "own.safetensors").read_bytes()
        yield (folder / "frames.safetensors").read_bytes()


@pytest.mark.slow
@needs_fork
@pytest.mark.parametrize(("backend", "threads"), [("diffusers", 1), ("sat", None)])
def test_a_forked_worker_renders_the_bits_of_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, threads: int | None
) -> None:
    forked = list(_answers(tmp_path, backend, threads))
    monkeypatch.setattr(worker_start, "_DRIVERS", ("/dev/null",))
    assert list(_answers(tmp_path, backend, threads)) == forked


@pytest.mark.slow
def test_importing_the_stacks_starts_no_thread_of_python() -> None:
    code = (
        "import threading\nfrom backends.worker.preload import import_always, import_stack\n"
        "import_always()\nfor name in ('diffusers', 'sat'): import_stack(name)\n"
        "import torch, sys\nprint(threading.active_count(), 'diffusers' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert said.stdout.splitlines()[-1] == "1 True"


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_the_peak_is_not_that_of_the_process_that_started_this_one() -> None:
    inner = (
        "from backends.worker.environment import peak_memory_gib; print(peak_memory_gib()['host'])"
    )
    outer = (
        "import subprocess, sys\nballast = b'1' * (300 << 20)\n"
        f'subprocess.run([sys.executable, "-c", {inner!r}], check=True)'
    )
    said = subprocess.run(
        [sys.executable, "-c", outer], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert float(said.stdout) < 0.2


@needs_fork
def test_servers_without_workers_make_room(
    tmp_path: Path, bare: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_ANYTHING", "first")
    with WorkerProcess(bare, None, tmp_path / "log", []) as first:
        for number in range(8):
            monkeypatch.setenv("TORCH_ANYTHING", str(number))
            with WorkerProcess(bare, None, tmp_path / "log", []) as worker:
                worker.call("describe", 60)
        assert len(worker_fork._servers._all) <= worker_fork._MOST_KINDS
        assert first.call("describe", 60)["torch"] == "not installed"
