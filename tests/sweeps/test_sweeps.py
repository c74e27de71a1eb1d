"""Sweeps lose nothing, do nothing twice, and end in order, whatever happens to them."""

import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest
from sweeping import ROOT, command, content, environment, noted, start, sweep

from harness.cli import main
from harness.store.store import Store

SEEDS = "seeds=0,1,2"
RENDERS = 9  # three variants, three seeds
Undisturbed = tuple[Path, float]


def _each_once(root: Path) -> None:
    renders = {what: n for what, n in noted(root / "log").items() if what.startswith("render")}
    assert len(renders) == RENDERS
    assert set(renders.values()) == {1}


def _nothing_left_behind(root: Path) -> None:
    assert list((root / "store" / "staging").iterdir()) == []
    assert list((root / "store" / "leases").iterdir()) == []


def test_each_model_is_opened_once_and_each_render_made_once(undisturbed: Undisturbed) -> None:
    root, _ = undisturbed
    _each_once(root)
    opened = {what: n for what, n in noted(root / "log").items() if what.startswith("open")}
    assert opened == {f"open micro-2b {flavour}": 1 for flavour in (0, 1, 2)}
    _nothing_left_behind(root)


def test_a_finished_sweep_started_again_does_nothing_within_5_s(undisturbed: Undisturbed) -> None:
    root, _ = undisturbed
    before, used = noted(root / "log"), resource.getrusage(resource.RUSAGE_CHILDREN)
    code, said = sweep(root, SEEDS)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert code == 0
    assert "nothing to do, all 6 jobs were finished before" in said
    assert noted(root / "log") == before
    # Seconds of computing, so that a busy machine does not decide.
    assert after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime < 5


def test_damage_in_a_finished_sweep_is_mended(undisturbed: Undisturbed, tmp_path: Path) -> None:
    original, _ = undisturbed
    root = tmp_path / "copy"
    shutil.copytree(original, root)
    (root / "log").unlink()
    path = sorted((root / "store").glob("renders/*/*/trace.safetensors"))[0]
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    shutil.rmtree(root / "store" / "finished")
    code, said = sweep(root, SEEDS)
    assert code == 0
    assert "'trace.safetensors': not the bytes that were stored" in said
    assert sum(n for what, n in noted(root / "log").items() if what.startswith("render")) == 1
    assert content(root) == content(original)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_what_is_ended_at_any_moment_is_resumed_to_the_bit(
    undisturbed: Undisturbed, tmp_path: Path, number: signal.Signals
) -> None:
    original, took_s = undisturbed
    moments = random.Random(int(number))
    process = start(tmp_path, SEEDS, delay_s=0.3)
    time.sleep(took_s * moments.uniform(0.3, 0.9))
    process.send_signal(number)
    process.communicate()
    code, said = sweep(tmp_path, SEEDS)
    assert code == 0, said
    assert content(tmp_path) == content(original)
    if number == signal.SIGINT:
        _nothing_left_behind(tmp_path)
    else:
        assert main(["gc", "--store", str(tmp_path / "store")]) == 0
        _nothing_left_behind(tmp_path)


def test_kills_at_random_moments_leave_no_trace_in_the_store(tmp_path: Path) -> None:
    """Fifty moments; `make bench` does the same with more seeds and keeps its log."""
    done = subprocess.run(
        [sys.executable, forked.__file__, str(tmp_path), "50", "1", "6"],
        env=environment(tmp_path), cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert sum("killed" in line for line in lines) >= 50
    assert "equal to the undisturbed store" in lines[-1]


def test_two_sweeps_at_once_make_every_render_once(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    both = [start(tmp_path, SEEDS, f"hydra.sweep.dir={tmp_path}/{name}") for name in "ab"]
    assert [process.communicate()[1] and process.returncode for process in both] == [0, 0]
    _each_once(tmp_path)
    assert content(tmp_path) == content(undisturbed[0])
    _nothing_left_behind(tmp_path)


def test_a_joblib_sweep_shares_the_work(undisturbed: Undisturbed, tmp_path: Path) -> None:
    code, said = sweep(tmp_path, SEEDS, "hydra/launcher=parallel")
    assert code == 0, said
    assert "6 of 6 jobs finished" in said
    _each_once(tmp_path)
    assert content(tmp_path) == content(undisturbed[0])


def test_a_submitit_sweep(undisturbed: Undisturbed, tmp_path: Path) -> None:
    code, said = sweep(tmp_path, "seeds=0", "hydra/launcher=local")
    assert code == 0, said
    assert "2 of 2 jobs finished" in said
    assert content(tmp_path).items() <= content(undisturbed[0]).items()


def test_a_full_disk_ends_the_sweep_cleanly(tmp_path: Path) -> None:
    """On a real file system with no space left, in a namespace of its own."""
    line = " ".join(f"'{word}'" for word in command(tmp_path, SEEDS))
    disk = tmp_path / "store"
    disk.mkdir()
    script = (
        f"mount -t tmpfs -o size=200k tmpfs {disk} && {{ {line}; echo code $?;"
        f" find {disk} -path '*staging/*' -o -path '*leases/*'; }}"
    )
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        env=environment(tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespaces here: {done.stderr.strip()}")
    assert "code 2" in done.stdout, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "code 2"
    assert done.stderr.count("no space left on the disk") == 1
    assert "Traceback" not in done.stderr
    assert "parity: job 1" not in done.stdout


def test_the_store_of_a_sweep_is_whole(undisturbed: Undisturbed) -> None:
    store = Store(undisturbed[0] / "store")
    assert len(list(store.renders())) == RENDERS
    assert main(["verify", "--store", str(store.root)]) == 0
