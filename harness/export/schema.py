"""The tables of `parity export`: their columns, types, and what each holds."""

from __future__ import annotations

from typing import Any, NamedTuple


class Column(NamedTuple):
    """A column: its Arrow type's name, and its meaning with unit and range."""

    name: str
    type: str
    meaning: str


_RUN = Column("run", "string", "name of the run folder")
_CASE = Column("case", "string", "case of the pair")
_CANDIDATE = Column("candidate", "string", "candidate variant of the pair")
_SEED = Column("seed", "int64", "seed of the noise tape")
_VALUE = "infinite and NaN values are kept"

TABLES: dict[str, tuple[Column, ...]] = {
    "renders": (
        Column("key", "string", "store key"),
        Column("case", "string", "name of the case"),
        Column("model", "string", "model as the case names it"),
        Column("variant", "string", "name of the variant"),
        Column("backend", "string", "registry name of the backend"),
        Column("options", "string", "the backend's options, as JSON"),
        Column("member", "string", "healthy member, or `plain`"),
        _SEED,
        Column("repeat", "int64", "0, or 1 for the rerun in a fresh process"),
        Column("status", "string", "ok, unsupported, error"),
        Column("message", "string", "why it is not ok; null otherwise"),
        Column("steps", "int64", "solver steps"),
        Column("frames", "int64", "video frames; null without a video"),
        Column("height", "int64", "pixels"),
        Column("width", "int64", "pixels"),
        Column("non_finite", "int64", "values of the float frames that are NaN or infinite"),
        Column("frames_sha256", "string", "hash of the uint8 frames"),
        Column("latents_digest", "string", "hash of the final latents"),
        Column("open_s", "float64", "seconds to open the pipeline"),
        Column("render_s", "float64", "seconds to render"),
        Column("peak_host_gib", "float64", "highest host memory of the worker, GiB"),
        Column("peak_cuda_gib", "float64", "highest CUDA memory of the worker, GiB"),
        Column("gpu", "string", "GPU model, or `none`"),
        Column("cpu", "string", "CPU model"),
        Column("torch", "string", "version of torch"),
        Column("created", "string", "ISO 8601, UTC"),
    ),
    "pairs": (
        _RUN,
        Column("created", "string", "when the run was judged, ISO 8601, UTC"),
        _CASE,
        Column("model", "string", "model as the case names it"),
        Column("reference", "string", "reference variant"),
        _CANDIDATE,
        Column("verdict", "string", "verdict of the pair"),
        Column("seeds", "int64", "number of seeds judged"),
        Column("findings", "int64", "number of findings"),
        Column("cost_guided_calls", "int64", "guided transformer calls spent on both sides"),
        Column("summary", "string", "the verdict in one paragraph"),
    ),
    "scores": (
        _RUN,
        _CASE,
        _CANDIDATE,
        Column("against", "string", "`candidate`, or `floor`: the reference rendered again"),
        _SEED,
        Column("metric", "string", "registry name of the metric"),
        Column("unit", "string", "unit of the value; null if unscored"),
        Column("value", "float64", f"pooled over the video; null if unscored; {_VALUE}"),
        Column("worst_frame", "int64", "video frame with the worst value, from 0"),
        Column("worst_value", "float64", f"value there; {_VALUE}"),
        Column("higher_is_better", "bool", "direction of the metric"),
        Column("weights", "string", "source and digest of what a learned metric measured with"),
        Column("unscored", "string", "why it could not be computed; null if scored"),
    ),
    "distances": (
        _RUN,
        _CASE,
        _CANDIDATE,
        Column("against", "string", "`candidate`, or `floor`: the reference rendered again"),
        _SEED,
        Column("latents_rel_l2", "float64", f"relative L2 of the final latents; {_VALUE}"),
        Column("first_step", "int64", "first step that differs in any bit; null: none"),
        Column("frames_equal", "bool", "float frames equal in every bit"),
        Column("latents_equal", "bool", "final latents equal in every bit"),
    ),
    "findings": (
        _RUN,
        _CASE,
        _CANDIDATE,
        Column("kind", "string", "where it was seen"),
        Column("name", "string", "what it is about"),
        Column("component", "string", "part of the pipeline; null if not named"),
        Column("detail", "string", "one sentence with both values"),
        Column("known", "string", "id of the registered deliberate difference; null: none"),
        Column("block", "string", "canonical name of the module; null if not named"),
        Column("share", "float64", "share of the squared gap; null if not measured"),
        Column("remedy", "string", "what to do next; null if not known"),
    ),
    "evidence": (
        _RUN,
        _CASE,
        _CANDIDATE,
        Column("place", "int64", "position in the chain of evidence, from 0"),
        Column("stage", "string", "stage of the procedure"),
        Column("check", "string", "name of the check"),
        Column("component", "string", "part of the pipeline; null if it is about the whole"),
        Column("outcome", "string", "agrees, differs, noted, unscored (never a pass)"),
        Column("value", "float64", f"what was measured; null if nothing was; {_VALUE}"),
        Column("limit", "float64", "bound that it was held against; null if none"),
        Column("unit", "string", "unit of value, limit and healthy values"),
        Column("healthy_low", "float64", "smallest value of the healthy members; null if none"),
        Column("healthy_high", "float64", "largest value of the healthy members; null if none"),
        Column("higher_is_worse", "bool", "direction of the check"),
        Column("step", "int64", "solver step of the worst value; null if it has none"),
        Column("seed", "int64", "seed of the worst value; null if it has none"),
        Column("detail", "string", "the check in one sentence"),
    ),
    "blocks": (
        _RUN,
        _CASE,
        _CANDIDATE,
        Column("module", "string", "canonical name of the module"),
        Column("step", "int64", "solver step of the scan"),
        Column("value", "float64", "relative L2 of its output on equal inputs; null: not finite"),
        Column("limit", "float64", "healthy limit; null if none"),
    ),
}


def arrow_schema(table: str) -> Any:
    """The Arrow schema of `table`; each field's metadata holds its `meaning`."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field(c.name, pa.type_for_alias(c.type), metadata={"meaning": c.meaning})
            for c in TABLES[table]
        ]
    )


def as_markdown() -> str:
    """Every table and column, for people."""
    lines = ["# Tables of `parity export`", ""]
    for table, columns in TABLES.items():
        lines += [f"## {table}.parquet", "", "| column | type | meaning |", "|---|---|---|"]
        lines += [
            f"| `{c.name}` | {c.type} | {c.meaning.replace('|', chr(92) + '|')} |" for c in columns
        ]
        lines.append("")
    return "\n".join(lines)
