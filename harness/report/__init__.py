"""The report: terminal, Markdown and HTML, made from the run folder and the store and nothing else.

    verdict.json + store -> reading -> matrix -> terminal | markdown | junit | page (+ assets)

`print_matrix` shows a run in the terminal, `write` makes the files, `Progress` accompanies a run.
"""

from __future__ import annotations

from pathlib import Path

from harness.report.junit import write_junit
from harness.report.markdown import render_markdown
from harness.report.progress import Progress
from harness.report.reading import RunFiles
from harness.report.terminal import print_matrix

__all__ = ["Progress", "print_matrix", "write"]


def write(run_folder: Path, store_root: Path) -> Path:
    """Write `report.md`, `junit.xml` and the site into the run folder; return `index.html`.

    Works on what `verdict.json` there names; a render that the store lacks is reported as such.
    What an earlier report left is replaced.

    Raises: StoreError, when `verdict.json` is missing or damaged, or the folder cannot be written.
    """
    from harness.report.page import write_page

    files = RunFiles.open(run_folder, store_root)
    files.write_text("report.md", render_markdown(files))
    write_junit(files)
    return write_page(files)
