"""The report as Markdown."""

from synthetic_runs import Synthetic

from harness import report

HOSTILE = '<script>document.title="owned"</script> "quoted"\n../../etc `tick` | pipe \u202egnp.exe'


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
