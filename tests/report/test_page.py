"""The site in a real browser: from the overview to the cause, the player, hostile input, no network."""

import re
from pathlib import Path

import pytest
from browsing import frame_shown, opened, play, until
from gallery_runs import FAULTY_BLOCK
from playwright.sync_api import Page
from synthetic_runs import Synthetic, clip, distance, perturbed

from harness import report
from harness.render.frames import read_frames

pytestmark = pytest.mark.browser
HOSTILE = (
    '<script>document.title="owned"</script> "quoted\' \n../../etc `tick` | pipe \u202egnp.exe '
    "<img src=x onerror=\"document.title='owned'\"> مرحبا {{ 7*7 }}"
)


@pytest.fixture
def site(gallery_run: Synthetic) -> Path:
    """The overview of the gallery: a pair of every verdict and a planted RoPE fault."""
    return gallery_run.folder / "index.html"


def at_fault(page: Page, site: Path, state: str = "") -> None:
    """The page of the planted fault."""
    title = 'circle_left[^"]+sat_no_rope'
    link = re.search(f'href="(pairs/[^"]+)" data-id="[^"]+" title="{title}', site.read_text())
    assert link is not None
    opened(page, site.parent / link[1], state)


def test_from_the_overview_to_fault_block_and_frame_in_three_clicks(page: Page, site: Path) -> None:
    opened(page, site)
    assert "2 failing" not in page.inner_text("h1")
    assert "3 failing" in page.inner_text("h1")
    page.click("#grid a.cell:has-text('bug')")  # one
    assert "are not rotated" in page.inner_text(".lead")
    assert FAULTY_BLOCK in page.inner_text(".lead")
    page.click(".where a[href='#blocks']")  # two
    assert f"{FAULTY_BLOCK} at step 0" in page.inner_text("#blocks")
    page.click(".where a.seek >> nth=0")  # three
    frame_shown(page, 8)


def test_what_was_not_compared_never_looks_like_a_pass(page: Page, site: Path) -> None:
    opened(page, site)
    for verdict in ("not_run", "unsupported", "error", "inconclusive"):
        cells = page.locator(f"#grid a.cell:has-text('{verdict}')")
        assert cells.count() >= 1
        assert "good" not in (cells.first.get_attribute("class") or "").split()
        good = page.locator("#grid a.cell.good").first.evaluate(
            "e => getComputedStyle(e).borderStyle"
        )
        assert cells.first.evaluate("e => getComputedStyle(e).borderStyle + e.className") != good
    at_fault(page, site)
    unscored = page.locator(".chain .check.unscored")
    assert "never a pass" in unscored.inner_text()


def test_rows_are_worst_first_and_every_link_leads_to_a_page(page: Page, site: Path) -> None:
    opened(page, site)
    order = page.locator("#pairs tbody tr").evaluate_all("rows => rows.map(r => r.dataset.verdict)")
    words = ["broken", "bug", "error", "inconclusive", "not_run", "unsupported", "policy",
             "chaotic", "rounding", "bit_exact"]  # fmt: skip
    assert order == sorted(order, key=words.index)
    for file in [site, site.parent / "trend.html", *sorted((site.parent / "pairs").iterdir())]:
        text = file.read_text()
        for target in re.findall(r'(?:href|src)="([^"#:]+)(?:#[^"]*)?"', text):
            assert (file.parent / target).exists(), (file, target)
        ids = set(re.findall(r'\bid="([^"]+)"', text))
        assert set(re.findall(r'href="#([^"]+)"', text)) <= ids, file


def test_filters_search_and_deep_links(page: Page, site: Path) -> None:
    opened(page, site)
    shown = page.locator("#pairs tbody tr:visible")
    page.click(".chip[data-verdict='bit_exact']")
    assert shown.count() == 4
    page.select_option("[name=case]", "circle_left")
    assert shown.count() == 2
    assert page.locator("#grid a.cell:not(.dim)").count() == 2
    state = page.evaluate("location.hash")
    page.click("button[type=reset]")
    until(page, "document.getElementById('count').value === '13 of 13 pairs'")
    page.keyboard.press("Escape")
    page.locator("body").press("/")
    page.keyboard.type("ROPE rotated")
    assert shown.count() == 1
    page.fill("[name=q]", "no such thing")
    assert page.is_visible("#nothing")
    opened(page, site, state)
    assert shown.count() == 2
    assert page.input_value("[name=case]") == "circle_left"


def test_arrow_keys_move_in_the_matrix_and_enter_opens(page: Page, site: Path) -> None:
    opened(page, site)
    page.locator("#grid a.cell").first.focus()
    page.keyboard.press("ArrowRight")
    assert "bug" in page.evaluate("document.activeElement.textContent")
    page.keyboard.press("ArrowDown")
    assert "error" in page.evaluate("document.activeElement.textContent")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.wait_for_url("**/pairs/*.html")
    assert "sat_no_rope" in page.inner_text("h1")


def test_the_player_steps_plays_and_shows_the_very_pixels(page: Page, site: Path) -> None:
    at_fault(page, site, "#seed=0&frame=3&view=side")
    play(page)
    frame_shown(page, 3)
    page.keyboard.press("ArrowRight")
    frame_shown(page, 4)
    page.keyboard.press("End")
    frame_shown(page, 8)
    page.keyboard.press("ArrowRight")
    frame_shown(page, 8)
    page.keyboard.press("Home")
    frame_shown(page, 0)
    page.keyboard.press("Shift+ArrowRight")
    shown = page.inner_text("#pixel")
    video = clip(9, 64, 64)[::-1]
    candidate = perturbed(video, 40, 0)
    expected = [f"({', '.join(map(str, v[0, 32, 33]))})" for v in (video, candidate)]
    assert f"x 33, y 32, frame 0: reference {expected[0]}, candidate {expected[1]}" in shown
    page.keyboard.press(" ")
    until(page, "document.getElementById('frame').value > 2")
    page.keyboard.press(" ")


def test_every_view_shows_what_it_says(page: Page, site: Path) -> None:
    at_fault(page, site, "#seed=0&frame=8&view=difference")
    play(page)
    video = clip(9, 64, 64)[::-1]
    gap = abs(perturbed(video, 40, 0)[8].astype(int) - video[8])[32, 33]
    page.select_option("#gain", "2")
    colour = """(x, y) => {
      const canvas = document.getElementById("canvas-b"), s = canvas.width / 64;
      const at = [(x + 0.5) * s, (y + 0.5) * s, 1, 1];
      return [...canvas.getContext("2d").getImageData(...at).data].slice(0, 3); }"""
    assert page.evaluate(f"({colour})(33, 32)") == [min(255, 2 * int(v)) for v in gap]
    page.keyboard.press("5")
    assert page.is_visible("#heat-legend")
    assert page.inner_text("#legend-high") == "64"
    page.select_option("#scale", "255")
    assert page.inner_text("#legend-high") == "255"
    page.locator("#stage").focus()
    page.keyboard.press("2")
    page.locator("#wipe").fill("0")
    candidate_only = page.evaluate(f"({colour})(33, 32)")
    page.locator("#wipe").fill("100")
    assert page.evaluate(f"({colour})(33, 32)") == list(map(int, video[8, 32, 33]))
    assert candidate_only == list(map(int, perturbed(video, 40, 0)[8, 32, 33]))
    page.locator("#stage").focus()
    page.keyboard.press("3")
    caption = "document.querySelector('#pane-b figcaption').textContent.includes('{}')"
    until(page, caption.format("reference"))
    until(page, caption.format("candidate"))
    page.keyboard.press("1")
    assert page.locator("#pane-a").is_visible()
    assert "view=side" in page.evaluate("location.hash")


def test_zoom_is_linked(page: Page, site: Path) -> None:
    at_fault(page, site, "#seed=0&frame=0&view=side")
    play(page)
    whole = "['a', 'b'].map(s => document.getElementById('canvas-' + s).toDataURL())"
    before = page.evaluate(whole)
    for _ in range(4):
        page.keyboard.press("+")
    zoomed = page.evaluate(whole)
    assert zoomed[0] != before[0]
    assert zoomed[1] != before[1]
    page.keyboard.press("0")
    assert page.evaluate(whole) == before


def test_a_click_on_a_curve_seeks_the_player(page: Page, site: Path) -> None:
    at_fault(page, site, "#seed=0&frame=0&view=side")
    play(page)
    frame_shown(page, 0)
    page.locator("[data-chart=frames]").scroll_into_view_if_needed()
    page.wait_for_selector("[data-chart=frames] .points path")
    point = page.locator("[data-chart=frames] .points path").nth(5)
    page.wait_for_timeout(300)
    box = point.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("[data-chart=frames] .hoverlayer .hovertext")
    page.mouse.down()
    page.mouse.up()
    frame_shown(page, 5)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stays_readable_in_both_schemes(page: Page, site: Path, scheme: str) -> None:
    """Contrast of at least 4.5 (WCAG AA) for text and for every badge on what lies behind it."""
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    contrast = """() => {
      const rgb = (c) => c.match(/[\\d.]+/g).map(Number);
      const light = (c) => rgb(c).slice(0, 3).map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
      const behind = (e) => { for (; e; e = e.parentElement) {
        const c = getComputedStyle(e).backgroundColor; if ((rgb(c)[3] ?? 1) > 0.99) return c; }
        return getComputedStyle(document.body).backgroundColor; };
      const text = "h1, h1 .tone, td, th, small, .badge, a, .chip, p, dt";
      return [...document.querySelectorAll(text)].map((e) => {
        const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
        return [(a + 0.05) / (b + 0.05), e.outerHTML.slice(0, 90)]; }).sort((x, y) => x[0] - y[0])[0];
    }"""
    for file in (site, site.parent / "trend.html"):
        opened(page, file)
        worst = page.evaluate(contrast)
        assert worst[0] >= 4.5, worst
    at_fault(page, site)
    worst = page.evaluate(contrast)
    assert worst[0] >= 4.5, worst
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] < 128")
    assert dark is (scheme == "dark")


def test_the_scheme_can_be_chosen(page: Page, site: Path) -> None:
    opened(page, site)
    page.click("#theme")
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.scheme") == "dark"
    page.click("a:has-text('Trend')")
    page.wait_for_url("**/trend.html")
    page.wait_for_load_state("load")
    assert page.evaluate("document.documentElement.dataset.scheme") == "dark"


def test_everything_that_can_be_used_has_a_name(page: Page, site: Path) -> None:
    at_fault(page, site)
    play(page)
    nameless = """() => [...document.querySelectorAll("a, button, input, select, canvas, [role=region]")]
      .filter((e) => !(e.textContent.trim() || e.getAttribute("aria-label") || e.title
        || e.getAttribute("aria-labelledby") || e.closest("label") || e.closest("[aria-hidden=true]")))
      .map((e) => e.outerHTML)"""
    assert page.evaluate(nameless) == []
    assert page.locator("h1").count() == 1
    assert page.get_attribute("html", "lang") == "en"


def test_hostile_words_and_numbers_stay_words_and_numbers(page: Page, run: Synthetic) -> None:
    from harness.records import BlockDistance, Evidence, Finding, Share

    video = clip(3, 16, 16)
    keys = {0: run.render(HOSTILE, 0, video, prompt=HOSTILE, environment={HOSTILE: HOSTILE})}
    nan, inf = float("nan"), float("inf")
    for index, value in enumerate((nan, inf, -inf, None)):
        run.pair(
            "bug", f"{HOSTILE} {index}", case=HOSTILE, model=HOSTILE, reference=HOSTILE,
            share=[HOSTILE], reasons=[HOSTILE], renders={"reference": keys, "candidate": keys},
            summary=HOSTILE, distances=[distance(0, value)],
            findings=[Finding(kind=HOSTILE, name=HOSTILE, detail=HOSTILE, block=HOSTILE,
                              component="transformer", share=value, remedy=HOSTILE, known=HOSTILE)],
            evidence=[Evidence(stage=HOSTILE, check=HOSTILE, outcome="differs", detail=HOSTILE,
                               value=value, limit=limit, unit=HOSTILE, healthy=[nan, inf, -inf, 0])
                      for limit in (nan, inf, -inf, None, 1.0)],
            shares=[Share(component="solver", share=value or 0, low=nan, high=inf)],
            blocks=[BlockDistance(module=HOSTILE, step=0, value=value, limit=1e-3)],
        )  # fmt: skip
    run.pair("not_run", "no seeds", seeds=())
    run.save(exit_code=1)
    index = report.write(run.folder, run.store.root)
    outside = [p for p in run.folder.rglob("*") if not p.resolve().is_relative_to(run.folder)]
    assert outside == []
    pages = [index, index.parent / "trend.html", *(index.parent / "pairs").iterdir()]
    assert len(pages) == 7
    for file in pages:
        opened(page, file)
        assert page.title() != "owned"
        assert page.locator("img").count() == 0
        assert page.locator("script:not([src]):not([type='application/json'])").count() == 0
        assert "49" not in page.title()
        assert not {"\u202e", "\u2066"} & set(page.inner_text("body"))
    opened(page, index)
    page.fill("[name=q]", "../../etc")
    assert page.locator("#pairs tbody tr:visible").count() == 4


def test_shapes_that_differ_are_shown_side_by_side_only(page: Page, run: Synthetic) -> None:
    renders = {
        "reference": {0: run.render("a", 0, clip(5, 16, 16))},
        "candidate": {0: run.render("b", 0, clip(3, 24, 16))},
    }
    run.pair("broken", "b", reference="a", renders=renders, distances=[distance(0, None)])
    run.save(exit_code=1)
    opened(page, next((report.write(run.folder, run.store.root).parent / "pairs").iterdir()))
    play(page)
    assert "different shapes, 5 x 16 x 16 and 3 x 24 x 16" in page.inner_text("#film-remark")
    assert page.is_disabled("[data-mode=heat]")
    page.keyboard.press("End")
    frame_shown(page, 4)


def test_a_damaged_video_is_said_and_the_rest_is_shown(page: Page, run: Synthetic) -> None:
    keys = {0: run.render("a", 0, clip(3, 16, 16))}
    (run.store.render_folder(keys[0]) / "frames.mkv").write_bytes(b"nothing")
    run.pair("inconclusive", "b", renders={"reference": keys, "candidate": keys})
    run.save()
    opened(page, next((report.write(run.folder, run.store.root).parent / "pairs").iterdir()))
    assert "The frames cannot be shown" in page.inner_text("#player")


def test_five_hundred_pairs_open_in_two_seconds(page: Page, run: Synthetic) -> None:
    from gallery_runs import rope_chain

    for case in range(25):
        for candidate in range(20):
            run.pair("bug" if case == candidate else "bit_exact", f"candidate_{candidate}",
                     case=f"case_{case}", evidence=rope_chain() if case == candidate else [],
                     distances=[distance(0, 0.1 if case == candidate else 0.0)])  # fmt: skip
    run.save(exit_code=1)
    index = report.write(run.folder, run.store.root)
    # the time of this page's own thread, so that a busy machine does not count
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    opened(page, index)
    assert page.inner_text("#count") == "500 of 500 pairs"
    metrics = session.send("Performance.getMetrics")["metrics"]
    assert 0 < next(m["value"] for m in metrics if m["name"] == "TaskDuration") < 2
    page.fill("[name=q]", "case_7")
    assert page.locator("#pairs tbody tr:visible").count() == 20
    assert (run.folder / "report.md").stat().st_size < 2**20


def test_frames_on_the_page_are_those_of_the_store(run: Synthetic) -> None:
    """Decoded with another library than the page's, to the bit."""
    import base64
    import io
    import json

    import numpy as np
    from PIL import Image

    key = run.render("a", 0, perturbed(clip(9, 16, 16), 30))
    run.pair("inconclusive", "b", renders={"reference": {0: key}, "candidate": {0: key}})
    run.save()
    assets = report.write(run.folder, run.store.root).parent / "assets" / "frames"
    (script,) = assets.glob("*.js")
    pictures = json.loads(script.read_text().split(",", 2)[2].removesuffix(");\n"))
    shown = [np.array(Image.open(io.BytesIO(base64.b64decode(p)))) for p in pictures]
    assert np.array_equal(shown, read_frames(run.store.render_folder(key) / "frames.mkv"))
