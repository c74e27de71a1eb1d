"""Renders and verdicts as Parquet tables, with views for DuckDB."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from harness.errors import explained_writing
from harness.export.schema import TABLES, arrow_schema, as_markdown
from harness.records import PairResult, RenderRecord, RunResult
from harness.report.reading import RunFiles
from harness.store.store import Store

Row = dict[str, Any]
_BATCH_ROWS = 10_000


def export(store: Store, results: Path, target: Path) -> dict[str, int]:
    """Write `<table>.parquet` for every table, `views.sql` and `schema.md` into `target`.

    Returns the number of rows of each table. Raises: StoreError, when a record or a verdict cannot be
    read, or the folder cannot be written.
    """
    with explained_writing(target):
        target.mkdir(parents=True, exist_ok=True)
        counts = {name: _write(target, name, _rows(name, store, results)) for name in TABLES}
        (target / "views.sql").write_text(files("harness.export").joinpath("views.sql").read_text())
        (target / "schema.md").write_text(as_markdown())
    return counts


def _write(target: Path, name: str, rows: Iterator[Row]) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    schema, count = arrow_schema(name), 0
    partial = target / f"{name}.parquet.partial"
    with parquet.ParquetWriter(partial, schema) as writer:
        while batch := [row for row, _ in zip(rows, range(_BATCH_ROWS), strict=False)]:
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    partial.replace(target / f"{name}.parquet")
    return count


def _rows(table: str, store: Store, results: Path) -> Iterator[Row]:
    if table == "renders":
        yield from map(_render, store.renders())
        return
    for path in sorted(results.glob("runs/*/verdict.json")):
        run = RunFiles.open(path.parent, store.root).result
        for pair in run.pairs:
            place = {"run": run.run, "case": pair.case, "candidate": pair.candidate}
            for row in _OF_PAIR[table](run, pair):
                yield place | row


def _render(record: RenderRecord) -> Row:
    case, variant, frames = record.case, record.variant, record.frames
    return {
        **record.model_dump(
            include={"key", "seed", "repeat", "member", "status", "message", "latents_digest",
                     "open_s", "render_s", "created"}
        ),
        "case": case["name"],
        "model": case.get("model"),
        "variant": variant["name"],
        "backend": variant.get("backend"),
        "options": json.dumps(variant.get("options"), sort_keys=True),
        "steps": case.get("steps"),
        **({} if frames is None else frames.model_dump(exclude={"float_digest", "sha256"})),
        "frames_sha256": None if frames is None else frames.sha256,
        "peak_host_gib": record.peak_gib.get("host"),
        "peak_cuda_gib": record.peak_gib.get("cuda"),
        **{name: record.environment.get(name) for name in ("gpu", "cpu", "torch")},
    }  # fmt: skip


def _pair(run: RunResult, pair: PairResult) -> Iterator[Row]:
    yield {
        "created": run.created,
        **pair.model_dump(
            include={"model", "reference", "verdict", "cost_guided_calls", "summary"}
        ),
        "seeds": len(pair.seeds),
        "findings": len(pair.findings),
    }


def _scores(_: RunResult, pair: PairResult) -> Iterator[Row]:
    for against, scores in (("candidate", pair.scores), ("floor", pair.floor_scores)):
        for metric, by_seed in scores.items():
            for seed, result in zip(pair.seeds, by_seed, strict=False):
                yield {"against": against, "seed": seed, "metric": metric} | _score(result)


def _score(result: Row) -> Row:
    if result["kind"] == "unscored":
        return {"unscored": f"{result['reason']}. {result['remedy']}"}
    worst = result["worst_frame"]
    return {
        "unit": result["spec"]["unit"],
        "higher_is_better": result["spec"]["higher_is_better"],
        "weights": result["spec"].get("weights") or None,
        "value": float(result["value"]),  # infinities and NaN are strings in JSON
        "worst_frame": worst["index"],
        "worst_value": float(worst["value"]),
    }


def _distances(_: RunResult, pair: PairResult) -> Iterator[Row]:
    for against, distances in (("candidate", pair.distances), ("floor", pair.floor)):
        for distance in distances:
            yield {"against": against, **distance.model_dump(exclude={"per_step_rel_l2"})}


def _findings(_: RunResult, pair: PairResult) -> Iterator[Row]:
    wanted = {"kind", "name", "component", "detail", "known", "block", "share", "remedy"}
    yield from (finding.model_dump(include=wanted) for finding in pair.findings)


def _evidence(_: RunResult, pair: PairResult) -> Iterator[Row]:
    for place, check in enumerate(pair.evidence):
        yield {
            "place": place,
            **check.model_dump(exclude={"healthy"}),
            "healthy_low": min(check.healthy, default=None),
            "healthy_high": max(check.healthy, default=None),
        }


def _blocks(_: RunResult, pair: PairResult) -> Iterator[Row]:
    yield from (block.model_dump() for block in pair.blocks)


_OF_PAIR = {
    "pairs": _pair,
    "scores": _scores,
    "distances": _distances,
    "findings": _findings,
    "evidence": _evidence,
    "blocks": _blocks,
}
