"""The surroundings of a worker: its variables, its threads, and what its interpreter is and has."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping

from backends.worker.environment import VARIABLE, default_threads
from harness.errors import WorkerError
from harness.workers.process import cannot_start, lend_backends

_WITHHELD = re.compile(
    "PWD|OLDPWD|SHLVL|_|PS[0-9]|HIST.*|MAIL|EDITOR|VISUAL|PAGER|LS_COLORS|LESS.*"  # of a shell
    "|TERM.*|COLUMNS|LINES|COLORTERM|DISPLAY|WINDOWID|TMUX.*|STY|SSH_.*|GPG_.*|WAYLAND_.*"  # terminal
    "|XDG_SESSION.*|XDG_RUNTIME_DIR|DBUS_.*|INVOCATION_ID|JOURNAL_STREAM"  # of a login
    "|PYTEST_.*|COV_CORE_.*|COVERAGE.*|TOX_.*|NOX_.*"  # of a test runner
    "|CI|CI_.*|GITHUB_.*|GITLAB_.*|RUNNER_.*|BUILDKITE.*|BUILD_.*|JENKINS_.*"  # of a CI job
    "|PARITY_INERT_VARIABLES"  # said to the harness
    "|SLURM_.*|SLURMD_.*|PBS_.*|LSB_.*"  # of a batch job, whose number is another every time
    "|SUBMITIT_.*|LOKY_.*|JOBLIB_.*|ENABLE_IPC|KMP_INIT_AT_FORK"  # of what launches a sweep's jobs
)
"""Variables that say who started a run and where it is shown. Workers do not get them, so they cannot
act; a name that is missing here costs a render made again, and no false result."""

_THREADS = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS",
)  # fmt: skip
"""Each worker gets its number of threads in all of these: a launcher of jobs may set any of them."""

_UNKEYED = frozenset(
    {
        "PATH",  # where programs are found: those that a worker runs are keyed
        "HOME", "TMPDIR", "USER", "LOGNAME",  # where to look and write: what is read there is keyed
        "PYTHONPATH", "VIRTUAL_ENV",  # as are the modules that are imported
        "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER",  # one of several alike; its model is keyed
        *_THREADS,  # keyed as threads
        "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN",  # who asks, not what is answered
    }
)  # fmt: skip
"""Variables that workers get although they are in no key, each because what it leads to is."""

INERT = "PARITY_INERT_VARIABLES"
"""Names, by commas, of further variables that workers get and that change no result, as their user
says: a place for logs, the number of a build."""

_SHOWN = re.compile("(OMP|MKL|KMP|GOMP|ATEN|TORCH|PYTORCH|CUDA|CUBLAS|CUDNN|NVIDIA|DIFFUSERS)_.*")
"""Variables whose values a record shows; of the others it has a digest, as one may be a secret."""

_FRESH_S = 5.0
"""What an interpreter said of itself is asked for again after this time."""

_SHOW = (
    "import sys, json; sys.path[0:1] = [sys.argv[1]];"
    " from backends.worker.environment import default_threads, describe; import os;"
    " print(json.dumps([describe(), dict(os.environ), default_threads()]))"
)

_said: dict[tuple[str, str | None, frozenset[tuple[str, str]]], tuple[float, dict[str, str]]] = {}


def variables(threads: int | None) -> dict[str, str]:
    """The environment variables that a worker gets which computes with `threads`, or as many as its
    own variables or processors tell."""
    count = str(threads or default_threads())
    passed = {name: value for name, value in os.environ.items() if not _WITHHELD.fullmatch(name)}
    if (libraries := passed.get("LD_LIBRARY_PATH")) is not None:
        # OpenCV's import adds its folder again in every process below the last.
        passed["LD_LIBRARY_PATH"] = ":".join(dict.fromkeys(libraries.split(":")))
    return passed | {"TOKENIZERS_PARALLELISM": "false"} | dict.fromkeys(_THREADS, count)


def describe_worker(python: str | None, threads: int | None) -> dict[str, str]:
    """What a worker under `python` runs on and with: `describe` of that interpreter, the variables
    that it has in the end, and its threads. Starts a short process without torch.

    Raises `WorkerError` when there is no such interpreter or it cannot say.
    """
    python, passed = python or sys.executable, variables(threads)
    key = (python, os.environ.get(INERT), frozenset(passed.items()))
    before = _said.get(key)
    if before is None or time.monotonic() - before[0] > _FRESH_S:
        described, had, default = _ask(python, passed)
        said = described | _stated(had) | {"threads": str(threads or default)}
        _said[key] = before = (time.monotonic(), said)
    return dict(before[1])


def _stated(had: Mapping[str, str]) -> dict[str, str]:
    inert = {*_UNKEYED, *os.environ.get(INERT, "").split(",")}
    keyed = {name: value for name, value in had.items() if name not in inert}
    digest = hashlib.sha256(json.dumps(sorted(keyed.items())).encode()).hexdigest()
    shown = {f"{VARIABLE}{name}": value for name, value in keyed.items() if _SHOWN.fullmatch(name)}
    return shown | {"variables": digest[:16]}


def _ask(python: str, passed: dict[str, str]) -> tuple[dict[str, str], dict[str, str], int]:
    lent = lend_backends()
    try:
        answer = subprocess.run(
            [python, "-c", _SHOW, str(lent)],
            env=passed,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    except OSError as error:
        raise cannot_start(python, error) from error
    except subprocess.TimeoutExpired as error:
        raise WorkerError(
            f"the worker's interpreter {python!r} said nothing of itself within {error.timeout:g} s;"
            " see whether it starts by hand"
        ) from error
    finally:
        shutil.rmtree(lent)
    if answer.returncode != 0:
        raise WorkerError(
            f"the worker's interpreter {python!r} cannot run `backends` (Python 3.10 or later is"
            f" needed); it ended with exit code {answer.returncode}:\n{answer.stderr[-1000:].strip()}"
        )
    described, had, default = json.loads(answer.stdout.splitlines()[-1])
    # A shell that starts the interpreter adds its own.
    return described, {k: v for k, v in had.items() if not _WITHHELD.fullmatch(k)}, default
