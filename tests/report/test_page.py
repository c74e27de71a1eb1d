"""The page: whole, safe, and at home in a real browser without a network."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright
from synthetic_runs import Synthetic

from harness import report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
HOSTILE = '<script>document.title="owned"</script> "quoted"\n../../etc `tick` | pipe \u202egnp.exe'


@pytest.fixture(scope="module")
def browser_page() -> Iterator[Page]:
    if CHROMIUM is None:
        how = "chromium is not installed; run `apt-get install chromium`"
        if os.environ.get("CI") == "true":
            pytest.fail(how)
        pytest.skip(how)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser.new_page()
        browser.close()


def _open(page: Page, path: Path) -> tuple[list[str], list[str]]:
    """Load `path`; return console errors and requests that would leave the machine."""
    errors: list[str] = []
    left: list[str] = []
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.on("request", lambda r: left.append(r.url) if not r.url.startswith("file:") else None)
    page.goto(path.resolve().as_uri())
    page.wait_for_load_state("load")
    return errors, left


@pytest.mark.browser
def test_every_pair_is_in_the_matrix_and_linked(demo_run: Synthetic, browser_page: Page) -> None:
    page_file = report.write(demo_run.folder, demo_run.store.root)
    errors, left = _open(browser_page, page_file)
    assert errors == []
    assert left == []
    links = browser_page.locator("table a[href^='#']")
    assert links.count() >= len(demo_run.pairs)
    for index in range(links.count()):
        target = links.nth(index).get_attribute("href")
        assert target is not None
        assert browser_page.locator(f"[id='{target[1:]}']").count() == 1


@pytest.mark.browser
def test_pictures_load_and_verdicts_are_words(demo_run: Synthetic, browser_page: Page) -> None:
    _open(browser_page, report.write(demo_run.folder, demo_run.store.root))
    broken = browser_page.evaluate(
        "() => [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
    )
    assert broken == []
    text = browser_page.inner_text("body")
    for pair in demo_run.pairs:
        assert pair.verdict in text
        assert pair.candidate in text


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stays_readable_in_both_schemes(
    demo_run: Synthetic, browser_page: Page, scheme: str
) -> None:
    browser_page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    _open(browser_page, report.write(demo_run.folder, demo_run.store.root))
    ink, paper = browser_page.evaluate(
        "() => { const s = getComputedStyle(document.body);"
        " return [s.color, s.backgroundColor].map(c => c.match(/[\\d.]+/g).slice(0, 3)"
        ".reduce((a, v) => a + Number(v), 0) / 3) }"
    )
    assert (ink < paper) is (scheme == "light")
    assert abs(ink - paper) > 120


@pytest.mark.browser
def test_hostile_words_stay_words(run: Synthetic, browser_page: Page) -> None:
    run.pair("inconclusive", HOSTILE)
    run.save(exit_code=3)
    errors, left = _open(browser_page, report.write(run.folder, run.store.root))
    assert errors == []
    assert left == []
    assert browser_page.title() != "owned"
    assert browser_page.locator("script:not([src])", has_text="owned").count() == 0
    outside = [p for p in run.folder.rglob("*") if not p.resolve().is_relative_to(run.folder)]
    assert outside == []


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
