"""The store is whole or absent at every moment, and says what to do when it is neither."""

import errno
import os
from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.records import PipelineRecord, RenderRecord
from harness.store.store import Store, content_key


def _record(key: str, status: str = "ok") -> RenderRecord:
    return RenderRecord(
        key=key, case={"name": "c"}, variant={"name": "v"}, seed=0, repeat=0, share=[],
        inputs_key=None, status=status, created="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def _keep(store: Store, record: RenderRecord) -> None:
    with store.staged("renders", record.key) as folder:
        (folder / "record.json").write_text(record.model_dump_json())


def test_key_ignores_order_and_sees_every_value() -> None:
    assert content_key({"a": 1, "b": [1, 2]}) == content_key({"b": [1, 2], "a": 1})
    assert content_key({"a": 1}) != content_key({"a": 2})
    assert content_key({"a": [1, 2]}) != content_key({"a": [2, 1]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        content_key({"a": float("nan")})


def test_a_finished_render_is_found_and_listed(tmp_path: Path) -> None:
    store, key = Store(tmp_path), "ab" * 32
    assert store.find(key) is None
    _keep(store, _record(key))
    assert store.find(key) == _record(key)
    assert list(store.renders()) == [_record(key)]


def test_a_failed_attempt_is_listed_and_replaced_but_never_found(tmp_path: Path) -> None:
    store, key = Store(tmp_path), "cd" * 32
    _keep(store, _record(key, "error"))
    assert store.find(key) is None
    assert [r.status for r in store.renders()] == ["error"]
    _keep(store, _record(key))
    assert [r.status for r in store.renders()] == ["ok"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    store, key = Store(tmp_path), "ef" * 32
    with pytest.raises(RuntimeError), store.staged("renders", key) as folder:
        (folder / "record.json").write_text("half")
        raise RuntimeError
    assert list(store.renders()) == []
    assert list((tmp_path / "staging").iterdir()) == []


def test_a_full_disk_is_one_clear_message_and_leaves_nothing(tmp_path: Path) -> None:
    store, key = Store(tmp_path), "01" * 32
    with pytest.raises(StoreError, match="no space left"), store.staged("renders", key):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(store.renders()) == []
    assert list((tmp_path / "staging").iterdir()) == []


def test_a_store_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StoreError, match="choose another `store`"),
        Store(tmp_path / "file" / "store").staged("renders", "23" * 32),
    ):
        pass


def test_a_record_of_another_version_says_which_folder_to_delete(tmp_path: Path) -> None:
    store, key = Store(tmp_path), "45" * 32
    with store.staged("renders", key) as folder:
        (folder / "record.json").write_text('{"schema_version": 0}')
    with pytest.raises(StoreError, match="delete the folder"):
        store.find(key)


def test_whoever_stores_first_is_kept(tmp_path: Path) -> None:
    store, key = Store(tmp_path), "89" * 32
    _keep(store, _record(key))
    _keep(store, _record(key).model_copy(update={"created": "2027-01-01T00:00:00+00:00"}))
    assert store.find(key) == _record(key)
    assert list((tmp_path / "staging").iterdir()) == []


def test_pipelines_are_kept_once_and_read_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = PipelineRecord(
        weights={"vae.a": "0"}, dtypes={"vae": "float32"}, configs={"vae.scaling_factor": 0.7},
        policies={"schedule": "rescale, then pick", "layer_norm_eps": 1e-5},
    )  # fmt: skip
    assert store.add_pipeline(record) == store.add_pipeline(record)
    assert store.pipeline(store.add_pipeline(record)) == record
    with pytest.raises(StoreError, match="missing or damaged"):
        store.pipeline("67" * 32)
