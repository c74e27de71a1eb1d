"""Pairs in MLflow: metrics, evidence and videos, each pair once, errors in words."""

from pathlib import Path
from typing import Any

import pytest
from gallery_runs import FAULTY_BLOCK, gallery
from synthetic_runs import LPIPS_WEIGHTS

from harness.cli import main

mlflow = pytest.importorskip("mlflow")


def test_every_pair_is_logged_once_with_its_videos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a folder is server enough here
    run = gallery(tmp_path)
    run.save(exit_code=1)
    uri = (tmp_path / "mlruns").as_uri()
    line = ["export", "--store", str(run.store.root), "--results", str(tmp_path),
            "--to", str(tmp_path / "out"), "--mlflow", uri, "--experiment", "port"]  # fmt: skip
    assert main(line) == 0
    assert f"{len(run.pairs)} pairs logged, 0 were there" in capsys.readouterr().out
    assert main(line) == 0
    assert f"0 pairs logged, {len(run.pairs)} were there" in capsys.readouterr().out

    client: Any = mlflow.MlflowClient(tracking_uri=uri)
    place = client.get_experiment_by_name("port").experiment_id
    (bug,) = client.search_runs([place], "tags.`parity.verdict` = 'bug'")
    assert bug.data.tags["parity.block"] == FAULTY_BLOCK
    assert bug.data.params["candidate"] == "sat_no_rope"
    assert bug.data.params["weights.lpips"] == LPIPS_WEIGHTS
    scored = client.get_metric_history(bug.info.run_id, "psnr")
    assert sorted(metric.step for metric in scored) == [0, 1]
    assert all(0 < metric.value < 60 for metric in scored)
    assert client.get_metric_history(bug.info.run_id, "check.up-cast collapse")
    files = {file.path for file in client.list_artifacts(bug.info.run_id, "videos")}
    assert {"videos/candidate-seed-0", "videos/candidate-seed-1"} <= files
    assert "summary.md" in {file.path for file in client.list_artifacts(bug.info.run_id)}


def test_a_server_that_is_not_there_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = gallery(tmp_path)
    run.save(exit_code=1)
    line = ["export", "--store", str(run.store.root), "--results", str(tmp_path),
            "--to", str(tmp_path / "out"), "--mlflow", "ftp://nowhere"]  # fmt: skip
    assert main(line) == 2
    said = capsys.readouterr().err
    assert "MLflow at ftp://nowhere cannot be used" in said
    assert "Traceback" not in said
