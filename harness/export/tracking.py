"""Pairs in an MLflow tracking server: one MLflow run for each pair of each parity run.

params   case, model, reference, candidate, seeds; `weights.` before a learned metric's name: source
         and digest of what it measured with
tags     parity.verdict, parity.component, parity.block, parity.run, parity.commit, parity.pair
metrics  one value a seed, the seed as step: latents_rel_l2, psnr, ...; `floor.` before the same
         of the reference rendered again; `check.` before each value of the evidence
files    summary.md, and videos/<role>-seed-<seed>/preview.mp4, which is lossy
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from harness.errors import ParityError
from harness.metrics.base import Score, Unscored
from harness.records import PairResult, RunResult, SeedDistances
from harness.report.cause import find_cause
from harness.report.matrix import Row
from harness.report.plain import describe_pair
from harness.report.reading import read_result
from harness.report.scores import read_metrics
from harness.store.store import Store

_LONGEST_TAG = 4000
Metric = tuple[str, float, int]
"""Name, value, and the seed as step."""


def log_pairs(store: Store, results: Path, uri: str, experiment: str) -> tuple[int, int]:
    """Log every pair of every run to `uri`; return how many were new and how many were there.

    Needs the extra `mlflow`. Raises: ParityError, when the server cannot be used.
    """
    mlflow = _mlflow()
    runs = [read_result(path.parent) for path in sorted(results.glob("runs/*/verdict.json"))]
    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        place = found.experiment_id if found else client.create_experiment(experiment)
        known = _known(client, place)
        fresh = [(run, pair) for run in runs for pair in run.pairs if _name(run, pair) not in known]
        for run, pair in fresh:
            _log(client, place, store, run, pair)
    except mlflow.exceptions.MlflowException as error:
        raise ParityError(
            f"MLflow at {uri} cannot be used: {error}; check the address and your credentials there"
        ) from error
    return len(fresh), sum(len(run.pairs) for run in runs) - len(fresh)


def _mlflow() -> Any:
    # a server that does not answer is said within seconds, not minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    return import_module("mlflow")


def _known(client: Any, place: str) -> set[str]:
    """The names of the pairs that were logged whole."""
    names: set[str] = set()
    token = None
    while True:
        page = client.search_runs(
            [place], "attributes.status = 'FINISHED'", max_results=1000, page_token=token
        )
        names |= {run.data.tags.get("parity.pair", "") for run in page}
        token = page.token
        if not token:
            return names


def _name(run: RunResult, pair: PairResult) -> str:
    return f"{run.run}/{Row(pair, None).anchor}"


def _log(client: Any, place: str, store: Store, run: RunResult, pair: PairResult) -> None:
    cause = find_cause(pair)
    tags = {
        "parity.pair": _name(run, pair),
        "parity.run": run.run,
        "parity.commit": run.commit or "",
        "parity.verdict": pair.verdict,
        "parity.component": (cause and cause.component) or "",
        "parity.block": (cause and cause.block) or "",
        "mlflow.runName": f"{pair.case} {pair.candidate}",
        "mlflow.note.content": pair.summary[:_LONGEST_TAG],
    }
    logged = client.create_run(place, tags=tags).info.run_id
    sides = ("case", "model", "reference", "candidate")
    params = {name: getattr(pair, name) for name in sides} | {"seeds": pair.seeds}
    learned = {n: r.weights for n, r in read_metrics(pair).items() if r.weights}
    params |= {f"weights.{name}": weights for name, weights in learned.items()}
    for name, value in params.items():
        client.log_param(logged, name, value)
    for name, value, seed in _metrics(pair):
        client.log_metric(logged, name, value, step=seed)
    client.log_text(logged, describe_pair(pair), "summary.md")
    for role in ("reference", "candidate"):
        for seed, key in pair.renders.get(role, {}).items():
            preview = store.render_folder(key) / "preview.mp4" if key else None
            if preview is not None and preview.is_file():
                client.log_artifact(logged, str(preview), f"videos/{role}-seed-{seed}")
    client.set_terminated(logged, "FINISHED")


def _metrics(pair: PairResult) -> Iterator[Metric]:
    """Every number of a pair. NaN stays NaN; what is infinite is left out, since servers change it."""
    yield from _finite("", _distances(pair.distances))
    yield from _finite("floor.", _distances(pair.floor))
    for name, reading in read_metrics(pair).items():
        yield from _finite("", _scores(name, list(reading.by_seed.items())))
        yield from _finite(
            "floor.", _scores(name, list(zip(pair.seeds, reading.floor, strict=False)))
        )
    for check in pair.evidence:
        if check.value is not None:
            yield from _finite("check.", iter([(check.check, check.value, check.seed or 0)]))


def _finite(prefix: str, metrics: Iterator[Metric]) -> Iterator[Metric]:
    return ((prefix + n, v, s) for n, v, s in metrics if not math.isinf(v))


def _distances(distances: Sequence[SeedDistances]) -> Iterator[Metric]:
    for d in distances:
        if d.latents_rel_l2 is not None:
            yield "latents_rel_l2", d.latents_rel_l2, d.seed


def _scores(name: str, results: Sequence[tuple[int, Score | Unscored]]) -> Iterator[Metric]:
    for seed, result in results:
        if isinstance(result, Score):
            yield name, result.value, seed
