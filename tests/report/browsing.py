"""A page in a headless Chromium that may neither fail silently nor leave the machine."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        how = "chromium is not installed; run `apt-get install chromium`"
        if os.environ.get("CI") == "true":
            pytest.fail(how)
        pytest.skip(how)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page whose test fails when the console shows an error or a request leaves the machine."""
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page.set_default_timeout(90_000)  # a machine may be busy with other things
    wrong: list[str] = []
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda r: None if r.url.startswith(("file:", "data:")) else wrong.append(r.url),
    )
    yield page
    page.close()
    assert wrong == []


def opened(page: Page, file: Path, state: str = "") -> None:
    page.goto("about:blank")
    page.goto(file.resolve().as_uri() + state)
    page.wait_for_load_state("load")


def until(page: Page, expression: str) -> None:
    """Wait for a condition; the page's policy forbids playwright to poll it inside the page."""
    deadline = time.monotonic() + 90
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"never came true: {expression}"
        page.wait_for_timeout(20)


def frame_shown(page: Page, frame: int) -> None:
    until(page, f"document.getElementById('frame-shown').value.startsWith('frame {frame} of')")


def play(page: Page) -> None:
    page.locator("#stage").scroll_into_view_if_needed()
    page.wait_for_selector("#stage[data-mode]")
    until(page, "document.getElementById('canvas-b').width > 300")
    page.locator("#stage").focus()
