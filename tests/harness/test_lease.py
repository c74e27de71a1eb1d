"""Never two at work on one thing, and never a thing that nobody may work on."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import harness
from harness.store.lease import Leases

HOLD = """
import sys, time
from pathlib import Path
from harness.store.lease import Leases
with Leases(Path(sys.argv[1])).attempt("k") as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


def _leases(root: Path) -> Leases:
    return Leases(root, beat_s=0.05, expiry_s=0.4)


def _foreign(lease: Path) -> None:
    """Make a lease look as if another host had taken it."""
    lease.write_text(lease.read_text().replace('"host": "', '"host": "elsewhere-'))


def test_held_once_and_free_again(tmp_path: Path) -> None:
    mine, theirs = _leases(tmp_path), _leases(tmp_path)
    with mine.attempt("k") as held:
        assert held
        assert theirs.live("k")
        with theirs.attempt("k") as second, theirs.attempt("other") as other:
            assert not second
            assert other
        assert mine.live("k")
    assert not theirs.live("k")
    assert list(tmp_path.iterdir()) == []


def test_a_beating_lease_outlives_its_expiry(tmp_path: Path) -> None:
    with _leases(tmp_path).attempt("k"):
        _foreign(tmp_path / "k" / "1")
        time.sleep(0.8)
        with _leases(tmp_path).attempt("k") as second:
            assert not second


def test_a_dead_process_of_this_host_is_seen_at_once(tmp_path: Path) -> None:
    environment = dict(os.environ, PYTHONPATH=str(Path(harness.__file__).parents[1]))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, env=environment
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"True\n"
    with Leases(tmp_path).attempt("k") as mine:
        assert not mine
    holder.send_signal(signal.SIGKILL)
    while Leases(tmp_path).live("k"):  # also while it is a zombie that nobody has waited for
        time.sleep(0.01)
    with Leases(tmp_path).attempt("k") as mine:
        assert mine
    holder.communicate()
    assert not (tmp_path / "k").exists()


def test_a_dead_host_is_seen_when_its_lease_expires(tmp_path: Path) -> None:
    first = Leases(tmp_path, beat_s=60)
    with first.attempt("k"):
        _foreign(tmp_path / "k" / "1")
        with _leases(tmp_path).attempt("k") as second:
            assert not second
        time.sleep(0.5)
        with _leases(tmp_path).attempt("k") as second:
            assert second
            assert [path.name for path in (tmp_path / "k").iterdir() if path.name == "2"] == ["2"]
            with _leases(tmp_path).attempt("k") as third:
                assert not third


def test_what_the_dead_left_is_swept_up_and_the_living_stay(tmp_path: Path) -> None:
    with Leases(tmp_path, beat_s=60).attempt("dead"), _leases(tmp_path).attempt("living"):
        _foreign(tmp_path / "dead" / "1")
        (tmp_path / ".leftover").write_text("{}")
        time.sleep(0.5)
        assert _leases(tmp_path).sweep_up(dry_run=True) == 1
        assert _leases(tmp_path).sweep_up() == 1
        assert not (tmp_path / "dead").exists()
        assert not (tmp_path / ".leftover").exists()
        assert _leases(tmp_path).live("living")


def _compete(root: Path, worker: int, rounds: int) -> None:
    """Take a lease again and again; whoever holds it must find nobody's mark inside."""
    leases, mark = Leases(root / "leases"), root / "mark"
    won = 0
    while won < rounds:
        with leases.attempt("k") as mine:
            if mine:
                mark.open("x").close()
                time.sleep(0.001)
                mark.unlink()
                won += 1


def test_competitors_never_hold_it_together(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_compete, args=(tmp_path, n, 25)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
