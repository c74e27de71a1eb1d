"""`parity export`: renders, scores and evidence as Parquet tables, and to MLflow."""

from __future__ import annotations

import argparse
from pathlib import Path

from backends.worker.extras import require
from harness.commands.output import add_store, opened

_EXAMPLES = """\
examples:
  parity export                          into results/export
  cd results/export && duckdb -init views.sql -c 'FROM score_summary'
  parity export --schema                 what the tables and columns mean
  parity export --mlflow http://mlflow.example:5000 --experiment cogvideox
"""


def describe(parser: argparse.ArgumentParser) -> None:
    """Arguments and help."""
    parser.description = (
        "Write every render in the store and every pair of every run as Parquet tables, with a file"
        " of DuckDB views and a description of the columns beside them. With --mlflow, log every pair"
        " to a tracking server as well: verdict, metrics, evidence and the preview videos. Needs the"
        " extra export."
    )
    parser.epilog = _EXAMPLES
    add_store(parser)
    add = parser.add_argument
    add("--results", type=Path, default=Path("results"), help="where the runs lie;"
        " default: %(default)s")  # fmt: skip
    add("--to", type=Path, default=Path("results/export"), metavar="DIR", help="default:"
        " %(default)s")  # fmt: skip
    add("--mlflow", metavar="URI", help="a tracking server; what it has already is not logged again;"
        " needs the extra mlflow")  # fmt: skip
    add("--experiment", default="parity", metavar="NAME", help="of MLflow; default: %(default)s")
    add("--schema", action="store_true", help="print the description of the columns and stop")


def run(args: argparse.Namespace) -> int:
    """Carry out the verb."""
    if args.schema:
        from harness.export.schema import as_markdown

        print(as_markdown(), end="")
        return 0
    from harness.export import export

    require("export" if args.mlflow is None else "mlflow")
    store = opened(args.store)
    counts = export(store, args.results, args.to)
    print(", ".join(f"{count} {name}" for name, count in counts.items()) + f"; {args.to}")
    if args.mlflow is not None:
        from harness.export.tracking import log_pairs

        fresh, known = log_pairs(store, args.results, args.mlflow, args.experiment)
        print(f"MLflow {args.mlflow}: {fresh} pairs logged, {known} were there")
    return 0
