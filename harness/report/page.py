"""The static site of a run: an overview, a page for each pair, the trend. It needs no network.

index.html  trend.html  pairs/<anchor>.html  assets/{report.css, *.js, plotly.min.js, frames/}
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import StoreError
from harness.report.cause import COMPONENTS
from harness.report.film import Projector
from harness.report.matrix import Matrix, build_matrix
from harness.report.overview import build_grid, count_verdicts, shown_ratio, variant_costs
from harness.report.pair_view import view_pair
from harness.report.reading import RunFiles
from harness.report.reproduce import command_of_run
from harness.report.scores import metric_title
from harness.report.text import (
    ABSENT,
    counted,
    coverage_sentence,
    known_words,
    magnitude,
    visible,
    visible_lines,
    warning_sentence,
)
from harness.report.trend import read_trend
from harness.report.verdicts import VERDICTS

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_TEMPLATES = Path(__file__).parent / "templates"
_STATIC = ("report.css", "common.js", "overview.js", "player.js", "charts.js")
_FOLDERS = ("assets", "pairs")


def write_page(files: RunFiles) -> Path:
    """Write the site into the run folder; return `index.html`.

    `assets/` and `pairs/` appear whole or not at all, and before the page that names them. What an
    earlier report left is replaced.

    Raises: StoreError, when the run folder cannot be written.
    """
    partial = files.folder / "site.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in _FOLDERS:
            (partial / folder).mkdir(parents=True)
        index, trend = _write_site(files, partial)
        for folder in _FOLDERS:
            shutil.rmtree(files.folder / folder, ignore_errors=True)
            (partial / folder).rename(files.folder / folder)
    except OSError as error:
        raise StoreError(
            f"cannot write {files.folder}: {error.strerror}; free space, or give a folder that can"
            " be written"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    files.write_text("trend.html", trend)
    return files.write_text("index.html", index)


def _write_site(files: RunFiles, folder: Path) -> tuple[str, str]:
    """Write pairs and assets below `folder`; return the overview and the trend."""
    environment = _environment()
    matrix = build_matrix(files.result, files.costs)
    trend = read_trend(files.folder, files.result)
    common: dict[str, Any] = {
        "run": files.result,
        "matrix": matrix,
        "trend": trend,
        "changes": {row.row.anchor: row for row in trend.rows},
        "verdicts": VERDICTS.values(),
        "command": command_of_run(files.result),
    }
    _write_pairs(files, matrix, folder, environment, common)
    for name in _STATIC:
        shutil.copyfile(_TEMPLATES / name, folder / "assets" / name)
    index = environment.get_template("index.html.jinja").render(
        common,
        root="",
        grid=build_grid(matrix),
        counts=count_verdicts(matrix),
        costs=variant_costs([(pair, *files.renders.sides(pair)) for pair in files.result.pairs]),
        environment=_provenance(files),
        warnings=[warning_sentence(hazard) for hazard in files.result.hazards],
    )
    return index, environment.get_template("trend.html.jinja").render(common, root="")


def _write_pairs(
    files: RunFiles, matrix: Matrix, folder: Path, environment: Environment, common: dict[str, Any]
) -> None:
    """One pair after the other, so that the frames of one pair are in memory at a time."""
    projector = Projector(folder / "assets", files.renders)
    template = environment.get_template("pair.html.jinja")
    charts = False
    for index, row in enumerate(matrix.rows):
        view = view_pair(row, files, projector)
        charts |= view.has_charts
        page = template.render(
            common,
            root="../",
            view=view,
            row=row,
            pair=row.pair,
            previous=matrix.rows[index - 1] if index else None,
            following=matrix.rows[index + 1] if index + 1 < len(matrix.rows) else None,
        )
        (folder / row.page).write_text(page, encoding="utf-8", newline="\n")
    if charts:
        from plotly.offline import get_plotlyjs

        (folder / "assets" / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")


def _provenance(files: RunFiles) -> dict[str, str]:
    """Versions and hardware of the first reference render there is."""
    for pair in files.result.pairs:
        for record in files.renders.of(pair, "reference").values():
            return record.environment
    return {}


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        autoescape=True,
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = environment.filters
    filters.update(
        foreign=_foreign,
        breakable=_breakable,
        visible=visible,
        visible_lines=visible_lines,
        metric_title=metric_title,
        counted=counted,
        magnitude=magnitude,
        ratio=shown_ratio,
        coverage_sentence=coverage_sentence,
        known_words=known_words,
    )
    constants: dict[str, Any] = environment.globals
    constants.update(absent=ABSENT, components=COMPONENTS)
    return environment


def _foreign(text: str) -> Markup:
    """Text from outside, isolated so that its direction cannot reorder what stands beside it."""
    from markupsafe import Markup

    return Markup("<bdi>{}</bdi>").format(visible(text))


def _breakable(name: str) -> Markup:
    """The same for a long name: a line may break after its underscores and dots."""
    from markupsafe import Markup

    return Markup(re.sub(r"([_.])(?=\w)", r"\1<wbr>", str(_foreign(name))))  # noqa: S704 - escaped above
