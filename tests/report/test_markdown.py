"""The report as Markdown."""

import pytest
from rich.console import Console
from synthetic_runs import Synthetic

from harness import report
from harness.records import Finding

HOSTILE = '<script>document.title="owned"</script> "quoted"\n../../etc `tick` | pipe \u202egnp.exe'


def test_hazards_of_the_settings_are_shown_everywhere(
    run: Synthetic, capsys: pytest.CaptureFixture[str]
) -> None:
    run.pair("rounding", "sat")
    hazard = Finding(kind="config", name="dtype", detail="float16 <ends>", remedy="use bfloat16")
    result = run.result(0).model_copy(update={"hazards": [hazard]})
    (run.folder / "verdict.json").write_text(result.model_dump_json())
    page = report.write(run.folder, run.store.root).read_text()
    report.print_matrix(result, Console(width=120))
    for text in (page, (run.folder / "report.md").read_text()):
        assert "warning: float16 &lt;ends&gt;. Remedy: use bfloat16" in text.replace("\\", "")
    assert "warning: float16 <ends>. Remedy: use bfloat16" in capsys.readouterr().out


def test_nothing_compared_is_said_and_no_pass(run: Synthetic) -> None:
    run.save(exit_code=3)
    page = report.write(run.folder, run.store.root).read_text()
    markdown = (run.folder / "report.md").read_text()
    for text in (page, markdown):
        assert "Nothing was compared" in text


def test_markdown_escapes_what_a_job_summary_would_render(run: Synthetic) -> None:
    run.pair("inconclusive", HOSTILE)
    run.save(exit_code=3)
    report.write(run.folder, run.store.root)
    markdown = (run.folder / "report.md").read_text()
    assert "<script>" not in markdown
    assert len(markdown.encode()) < 2**20
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
