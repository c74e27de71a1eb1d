"""`index.html` and its assets: one static page that works from a file and without a network."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import StoreError
from harness.report.matrix import build_matrix
from harness.report.pair_view import PairView, view_pair
from harness.report.pictures import Painter
from harness.report.reading import RunFiles
from harness.report.scores import metric_title
from harness.report.text import ABSENT, counted, visible, visible_lines
from harness.report.verdicts import VERDICTS

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_TEMPLATES = Path(__file__).parent / "templates"
_STATIC = ("report.css", "report.js")


def write_page(files: RunFiles) -> Path:
    """Write `index.html` and `assets/` into the run folder; return the page.

    The assets appear whole or not at all, and before the page that names them.

    Raises: StoreError, when the run folder cannot be written.
    """
    matrix = build_matrix(files.result, files.costs)
    assets, partial = files.folder / "assets", files.folder / "assets.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        painter = Painter(partial, files.renders)
        views = [view_pair(row, files, painter) for row in matrix.rows]
        charts = any(view.curves for view in views)
        _write_static(partial, with_plotly=charts)
        shutil.rmtree(assets, ignore_errors=True)
        partial.rename(assets)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StoreError(
            f"cannot write {assets}: {error.strerror}; free space, or give a folder that can be"
            " written"
        ) from error
    page = (
        _environment()
        .get_template("index.html.jinja")
        .render(
            run=files.result,
            matrix=matrix,
            views=views,
            verdicts=VERDICTS.values(),
            command=shlex.join(files.result.command),
            environment=_environment_of(views),
            charts=charts,
        )
    )
    return files.write_text("index.html", page)


def _environment_of(views: list[PairView]) -> dict[str, str]:
    """Versions and hardware of the first reference render there is."""
    records = [record for view in views for record in view.reference.values()]
    return records[0].environment if records else {}


def _write_static(assets: Path, *, with_plotly: bool) -> None:
    for name in _STATIC:
        shutil.copyfile(_TEMPLATES / name, assets / name)
    if with_plotly:
        from plotly.offline import get_plotlyjs

        (assets / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")


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
        visible=visible,
        visible_lines=visible_lines,
        metric_title=metric_title,
        counted=counted,
    )
    constants: dict[str, Any] = environment.globals
    constants["absent"] = ABSENT
    return environment


def _foreign(text: str) -> Markup:
    """Text from outside, isolated so that its direction cannot reorder what stands beside it."""
    from markupsafe import Markup

    return Markup("<bdi>{}</bdi>").format(visible(text))
