"""`parity bisect`: which of the settings that differ carry the gap between two variants."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.commands.output import console
from harness.commands.request import Request
from harness.commands.settings import add_settings, carry_out
from harness.errors import EXIT_DIFFERENT, EXIT_EQUIVALENT, ConfigError

if TYPE_CHECKING:
    from harness.config.config import RunConfig
    from harness.localize.bisection import Bisection

_EXAMPLES = """\
  parity bisect 'candidate=[diffusers_model_offload]' candidates.diffusers_model_offload.vae_tiling=true
  parity bisect experiment=incident/local_vs_space
"""


def describe(parser: argparse.ArgumentParser) -> None:
    """Arguments and help."""
    add_settings(
        parser,
        "Find the smallest set of differing settings (options, placement, patch, settings of the case"
        " that the candidate changes) that carries the gap between the reference and one candidate,"
        " and each one's share. Settings are tried in groups, by a few teacher-forced questions each.",
        _EXAMPLES,
    )


def run(args: argparse.Namespace) -> int:
    """Carry out the verb."""
    return carry_out(args, "bisect", job)


def job(config: RunConfig, request: Request) -> int:
    """One bisection for each case and candidate of a configuration."""
    from harness.localize.bisection import bisect

    if len(config.cases) * len(config.candidates) != 1:
        raise ConfigError(
            f"bisect compares one candidate for one case, and the settings choose"
            f" {len(config.candidates)} and {len(config.cases)}; choose one of each"
        )
    found = bisect(config, request.plugins)
    _show(found)
    path = _write(found, config.results)
    print(f"written: {path}")
    return EXIT_DIFFERENT if found.culprits else EXIT_EQUIVALENT


def _show(found: Bisection) -> None:
    from rich.table import Table

    table = Table("setting", "reference", "candidate", "carries the gap", "share", box=None)
    for row in found.rows:
        share = f"{row.share:.1%}" if row.share is not None else ""
        table.add_row(
            row.key, repr(row.reference), repr(row.candidate), "yes" if row.carries else "no", share
        )
    out = console()
    out.print(table)
    out.print(found.sentence, markup=False, soft_wrap=True)


def _write(found: Bisection, results: Path) -> Path:
    folder = results / "bisect"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{found.case}-{found.candidate}.json"
    record: dict[str, Any] = found.model_dump(mode="json")
    path.write_text(json.dumps(record, indent=1))
    return path
