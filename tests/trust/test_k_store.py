"""Kind K: reading a store destroys nothing, and cleaning guesses nothing."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.errors import UnreadableError
from harness.records import RenderRecord
from harness.store import integrity, upkeep
from harness.store.lease import EXPIRY_S, Leases
from harness.store.runs import at_work, note_renders, using
from harness.store.store import Store


def key(number: int) -> str:
    return f"{number:064x}"


def keep(store: Store, number: int, status: str = "ok") -> None:
    record = RenderRecord(
        key=key(number), case={"name": "c"}, variant={"name": "v"}, seed=number, repeat=0, share=[],
        inputs_key=None, status=status, message="no", created="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    with store.staged("renders", record.key) as folder:
        (folder / "record.json").write_text(record.model_dump_json())


def kept(store: Store) -> set[int]:
    return {int(path.name, 16) for _, path in store.folders("renders")}


def run_of(store: Store, folder: Path, *numbers: int, verdict: bool = True) -> None:
    """A run that made and named these renders."""
    folder.mkdir(parents=True)
    with using(store, folder):
        for number in numbers:
            keep(store, number)
        if verdict:
            named = {"candidate": {str(n): key(n) for n in numbers}}
            (folder / "verdict.json").write_text(json.dumps({"pairs": [{"renders": named}]}))
        else:
            note_renders(store, folder, [key(number) for number in numbers])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Renders 1 and 2 of a run, 3 of a render-only run, and 9 that nobody names."""
    store = Store(tmp_path / "place" / "store")
    run_of(store, tmp_path / "results" / "runs" / "one", 1, 2)
    run_of(store, tmp_path / "results" / "runs" / "two", 3, verdict=False)
    keep(store, 9)
    return store


def gc(store: Store, *options: str) -> int:
    return main(["gc", "--store", str(store.root), *options])


@pytest.mark.parametrize("through_link", [False, True])
def test_what_is_used_depends_on_no_working_directory(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, through_link: bool
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "results" / "runs").mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    seen = tmp_path / "link"
    seen.symlink_to(store.root)
    assert gc(Store(seen) if through_link else store, "--unused", "--yes") == 0
    assert kept(store) == {1, 2, 3}


def test_nothing_is_removed_without_being_asked(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert gc(store, "--unused") == 2
    shown = capsys.readouterr()
    assert f"{key(9)}: named by no run" in shown.out
    assert "repeat with --yes" in shown.err
    for answer in ("n", ""):
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        assert gc(store, "--unused") == 2
    assert kept(store) == {1, 2, 3, 9}
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert gc(store, "--unused") == 0
    assert kept(store) == {1, 2, 3}


def test_a_run_in_progress_keeps_everything_and_a_new_one_waits(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results" / "runs" / "three").mkdir()
    with using(store, tmp_path / "results" / "runs" / "three"):
        keep(store, 4)
        assert gc(store, "--unused", "--yes") == 2
    with at_work(store):
        assert gc(store, "--unused", "--yes") == 2
    assert "a run is going on" in capsys.readouterr().err
    assert kept(store) == {1, 2, 3, 4, 9}
    assert gc(store, "--unused", "--yes") == 0


def test_a_folder_that_is_gone_may_have_been_moved(store: Store, tmp_path: Path) -> None:
    runs, moved = tmp_path / "results" / "runs", tmp_path / "archive" / "runs"
    moved.mkdir(parents=True)
    (runs / "one").rename(moved / "one")
    assert gc(store, "--unused", "--yes") == 2
    assert kept(store) == {1, 2, 3, 9}
    assert gc(store, "--unused", "--yes", "--results", str(moved.parent)) == 0
    assert kept(store) == {1, 2, 3}
    shutil.rmtree(moved)
    assert gc(store, "--unused", "--yes", "--forget-missing") == 0
    assert kept(store) == {3}


def test_renders_from_before_the_first_registered_run_have_unknown_users(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    keep(store, 8)
    assert gc(store, "--unused", "--yes") == 2, "no run is registered"
    time.sleep(0.05)
    run_of(store, tmp_path / "results" / "runs" / "one", 1)
    assert gc(store, "--unused", "--yes") == 0
    assert kept(store) == {1, 8}
    assert gc(store, "--unused", "--yes", "--results", str(tmp_path / "results")) == 0
    assert kept(store) == {1}


def test_two_stores_of_one_run_folder_each_know_it(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    folder = tmp_path / "results" / "runs" / "one"
    with using(other, folder):
        keep(other, 1)
    keep(other, 7)
    assert gc(other, "--unused", "--yes") == 0
    assert kept(other) == {1}
    assert kept(store) == {1, 2, 3, 9}


def test_an_attempt_that_succeeded_meanwhile_is_not_removed(store: Store) -> None:
    keep(store, 5, "error")
    (item,) = upkeep.failures(store)
    keep(store, 5)
    assert not item.remove(store)
    assert 5 in kept(store)


def _failing(monkeypatch: pytest.MonkeyPatch, number: int, code: int) -> None:
    """Every file of one render gives an error when it is opened, whoever asks (root, too)."""
    original = Path.open

    def opened(self: Path, *arguments: Any, **keywords: Any) -> Any:
        if key(number) in str(self) and "r" in (*arguments, keywords.get("mode", "r"))[0]:
            raise OSError(code, os.strerror(code), str(self))
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(Path, "read_bytes", lambda path: path.open("rb").read())


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_what_cannot_be_read_is_said_and_left_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    with monkeypatch.context() as scope:
        _failing(scope, 1, code)
        assert main(["verify", "--store", str(store.root)]) == 2
        shown = capsys.readouterr()
        assert "could not be read, and left alone: 1 renders" in shown.out
        assert "as it was written: 3 renders" in shown.out
        assert os.strerror(code) in shown.err
        with pytest.raises(UnreadableError, match="left alone"):
            store.find(key(1))
        assert gc(store, "--failed", "--damaged", "--yes") == 2
        assert "Traceback" not in capsys.readouterr().err
    assert not (store.root / "quarantine").exists()
    assert store.find(key(1)) is not None


def test_a_folder_that_cannot_be_listed_is_no_empty_one(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = Path.iterdir

    def iterdir(self: Path) -> Any:
        if self.parent.name == "renders":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return original(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert main(["verify", "--store", str(store.root)]) == 2
    assert "Permission denied" in capsys.readouterr().err
    assert gc(store, "--unused", "--yes") == 2
    monkeypatch.undo()
    assert kept(store) == {1, 2, 3, 9}


def test_damage_is_moved_and_removed_on_request_only(store: Store) -> None:
    record = store.render_folder(key(1)) / "record.json"
    record.write_text(record.read_text() + " ")
    assert main(["verify", "--store", str(store.root)]) == 1
    assert gc(store) == 0
    assert gc(store, "--unused", "--yes") == 0
    assert len(list((store.root / "quarantine").glob("*/record.json"))) == 1
    assert gc(store, "--damaged", "--yes") == 0
    assert list((store.root / "quarantine").iterdir()) == []


def test_damage_in_a_store_that_cannot_be_written_stays_and_is_not_used(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = store.render_folder(key(1)) / "record.json"
    record.write_text(record.read_text() + " ")

    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", read_only)
    assert store.find(key(1)) is None
    assert "could not be moved away" in capsys.readouterr().err
    assert record.exists()


def test_a_full_disk_can_be_cleaned(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of what frees space has to write a byte."""
    dead = store.root / "staging" / f"{key(6)}-1"
    dead.mkdir()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    assert gc(store) == 0
    assert not dead.exists()


def _aged(path: Path, seconds: float) -> None:
    now = time.time()
    os.utime(path, (now - seconds, now - seconds))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"{}", b'{"host": "x"}', b"\xff\xfe", b'{"host": 1, "pid": "a"}'],
)
def test_a_lease_that_says_nothing_ends_with_its_term(tmp_path: Path, content: bytes) -> None:
    leases = Leases(tmp_path)
    lease = tmp_path / "k" / "1"
    lease.parent.mkdir()
    lease.write_bytes(content)
    assert leases.live("k"), "it may just be in the making"
    _aged(lease, EXPIRY_S + 1)
    assert not leases.live("k")
    assert leases.sweep_up() == 1
    with leases.attempt("k") as mine:
        assert mine


@pytest.mark.parametrize("seconds", [EXPIRY_S + 60, 86_400 * 365])
def test_a_lease_from_the_future_holds_nothing(tmp_path: Path, seconds: float) -> None:
    leases = Leases(tmp_path)
    with leases.attempt("k"):
        lease = tmp_path / "k" / "1"
        owner = json.loads(lease.read_text()) | {"host": "elsewhere"}
        lease.write_text(json.dumps(owner))
        assert leases.live("k")
        _aged(lease, -seconds)
        assert not leases.live("k")
        with leases.attempt("k") as mine:
            assert mine


def test_a_folder_inside_a_render_is_damage_and_no_reading_error(store: Store) -> None:
    (store.render_folder(key(1)) / "more").mkdir()
    assert integrity.damage(store.render_folder(key(1))) == (
        "'more': not among the files that were stored"
    )


def test_work_that_is_being_staged_is_left_alone(store: Store) -> None:
    check: list[Callable[[], bool]] = []
    with store.leases.attempt(key(6)), store.staged("renders", key(6)) as folder:
        (folder / "record.json").write_text("{}")
        assert gc(store, "--unused", "--failed", "--yes") == 0
        check.append(folder.exists)
        assert folder.exists()
    assert not check[0]()
