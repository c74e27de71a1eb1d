"""Listing, checking, cleaning and exporting a store."""

import json
import os
from pathlib import Path

import duckdb
import pytest
from pyarrow import parquet

from harness.cli import main
from harness.export.schema import TABLES, as_markdown
from harness.records import RenderRecord
from harness.store.index import listing
from harness.store.store import Store
from tests.report.synthetic_runs import LPIPS_WEIGHTS, Synthetic, demo, lpips_missing


def record(number: int, status: str = "ok", **changes: object) -> RenderRecord:
    return RenderRecord(
        key=f"{number:064x}", case={"name": "c"}, variant={"name": "v"}, seed=number, repeat=0,
        share=["text"], inputs_key=None, status=status,
        created=f"2026-01-01T00:00:{number:02}+00:00", **changes,
    )  # fmt: skip


def keep(store: Store, kept: RenderRecord) -> None:
    with store.staged("renders", kept.key) as folder:
        (folder / "record.json").write_text(kept.model_dump_json())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    for number in range(3):
        keep(store, record(number))
    keep(store, record(3, "error", message="it tripped"))
    return store


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    synthetic = demo(tmp_path_factory.mktemp("demo"))
    synthetic.save()
    return synthetic


def test_the_listing_follows_every_change(store: Store) -> None:
    assert [row.seed for row in listing(store)] == [3, 2, 1, 0]
    assert (store.root / "index.json").is_file()
    keep(store, record(3))
    keep(store, record(4))
    (store.render_folder(record(0).key) / "record.json").unlink()
    rows = listing(store)
    assert [(row.seed, row.status) for row in rows] == [(n, "ok") for n in (4, 3, 2, 1)]
    for rubbish in ("", "{", '{"format": 0}', '{"format": 1, "rows": 3}'):
        (store.root / "index.json").write_text(rubbish)
        assert listing(store) == rows


def test_only_what_changed_is_read_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    listing(store)
    keep(store, record(4))
    read: list[Path] = []
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda p: (read.append(p), original(p))[1])
    listing(store)
    assert [path.parent.name for path in read if path.name == "record.json"] == [record(4).key]


def test_ls_shows_status_message_and_whole_records(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--store", str(store.root)]
    assert main(["ls", *where, "--status", "error"]) == 0
    shown = capsys.readouterr().out
    assert "error: it tripped" in shown
    assert shown.splitlines()[-1] == "1 renders"
    assert main(["ls", *where, "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [RenderRecord(**r).seed for r in records] == [3, 2, 1, 0]


def test_verify_finds_and_moves_away(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--store", str(store.root)]
    assert main(["verify", *where]) == 0
    assert "as it was written: 4 renders" in capsys.readouterr().out
    path = store.render_folder(record(1).key) / "record.json"
    path.write_bytes(path.read_bytes().replace(b'"v"', b'"w"'))
    assert main(["verify", *where]) == 1
    shown = capsys.readouterr()
    assert "'record.json': not the bytes" in shown.err
    assert "damaged and moved to" in shown.out
    assert main(["verify", *where]) == 0
    assert [row.seed for row in listing(store)] == [3, 2, 0]


def test_gc_leaves_the_living_and_the_finished_alone(store: Store) -> None:
    where = ["--store", str(store.root)]
    living, dead = (store.root / "staging" / f"{char * 64}-1" for char in "ab")
    for folder in (living, dead):
        folder.mkdir()
        (folder / "frames.mkv").write_bytes(b"0" * 100)
    with store.leases.attempt("a" * 64):
        assert main(["gc", *where, "--dry-run"]) == 0
        assert dead.exists()
        assert main(["gc", *where]) == 0
        assert living.exists()
        assert not dead.exists()
    assert len(list(store.renders())) == 4
    assert main(["gc", *where, "--failed", "--yes"]) == 0
    assert [r.seed for r in store.renders()] == [0, 1, 2]


def test_gc_of_the_unused_keeps_what_a_run_names(run: Synthetic, tmp_path: Path) -> None:
    named = {key for p in run.pairs for by_seed in p.renders.values() for key in by_seed.values()}
    keep(run.store, record(9))
    where = ["--store", str(run.store.root)]
    assert main(["gc", *where, "--unused", "--yes", "--results", str(run.folder.parents[1])]) == 0
    assert {r.key for r in run.store.renders()} == named
    broken = tmp_path / "runs" / "x" / "verdict.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    assert main(["gc", *where, "--unused", "--yes", "--results", str(tmp_path)]) == 2
    assert {r.key for r in run.store.renders()} == named


def test_export_gives_documented_tables_and_working_views(run: Synthetic, tmp_path: Path) -> None:
    run.pair("inconclusive", "half", seeds=(0,), scores={"lpips": [lpips_missing()]})
    run.save()
    results, target = run.folder.parents[1], tmp_path / "out"
    line = [
        "export",
        "--store",
        str(run.store.root),
        "--results",
        str(results),
        "--to",
        str(target),
    ]
    assert main(line) == 0
    for table, columns in TABLES.items():
        schema = parquet.read_schema(target / f"{table}.parquet")
        assert schema.names == [column.name for column in columns]
        assert all(schema.field(c.name).metadata[b"meaning"].decode() == c.meaning for c in columns)
    assert (target / "schema.md").read_text() == as_markdown()
    before = Path.cwd()
    os.chdir(target)
    try:
        db = duckdb.connect()
        db.execute((target / "views.sql").read_text())
        one = lambda query: db.execute(query).fetchone()[0]  # noqa: E731
        assert one("SELECT count(*) FROM renders") == len(list(run.store.renders()))
        assert one("SELECT count(*) FROM pairs") == len(run.pairs)
        assert one("SELECT isinf(value) FROM scores WHERE metric = 'psnr' AND against = 'floor'"
                   " LIMIT 1")  # fmt: skip
        assert one("SELECT count(*) FROM scores WHERE unscored IS NOT NULL AND value IS NULL") > 0
        weights = "SELECT string_agg(DISTINCT weights) FROM score_summary WHERE metric = "
        assert (one(weights + "'lpips'"), one(weights + "'psnr'")) == (LPIPS_WEIGHTS, None)
        worst = "SELECT worst_value FROM score_summary WHERE metric = 'ssim' AND candidate = "
        assert one(worst + "'sat-shared'") == pytest.approx(1 - 1 / 200)
        for view in ("newest", "costs", "failures", "distances", "findings"):
            assert one(f"SELECT count(*) FROM {view}") > 0, view
    finally:
        os.chdir(before)
