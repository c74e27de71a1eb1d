"""The site of real renders: a planted RoPE fault beside a healthy candidate, on a micro model."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import frame_shown, opened, play
from playwright.sync_api import Page

from harness.cli import main
from harness.render.frames import read_frames
from harness.store.store import Store
from harness.verdict import session
from harness.workers.connect import in_process

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]
BLOCK = "transformer.transformer_blocks.3.attn1"
SETTINGS = [
    "case=[micro_5b_quick]", "cases.micro_5b_quick.steps=4", "reference.name=original",
    "candidate=[diffusers_model_offload]", "+backend@candidates.port=diffusers",
    "candidates.port.patch=rope_missing_in_block_3", "judge.rerun=false", "judge.probe_seeds=[0,1]",
    "metrics=[psnr,ssim,lpips]",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder. The renders are those of `parity run`, in this process."""
    root = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "run", partial(session.run, connect=in_process))
        line = ["run", *SETTINGS, f"store={root}/store", f"results={root}/results"]
        assert main([*line, "--plugin", "tests.selftest.faults.positions"]) == 1
    return (root / "results" / "latest").resolve()


def verdicts(folder: Path) -> dict[str, Any]:
    pairs = json.loads((folder / "verdict.json").read_text())["pairs"]
    return {pair["candidate"]: pair for pair in pairs}


def frames(folder: Path, role: str) -> Any:
    key = verdicts(folder)["port"]["renders"][role]["0"]
    return read_frames(Store(folder.parents[1].parent / "store").render_folder(key) / "frames.mkv")


def test_three_clicks_from_the_overview_to_block_step_and_frame(page: Page, folder: Path) -> None:
    assert {name: pair["verdict"] for name, pair in verdicts(folder).items()} == {
        "diffusers_model_offload": "bit_exact", "port": "bug",
    }  # fmt: skip
    opened(page, folder / "index.html")
    assert "transformer > block 3, attn1" in page.inner_text("#pairs")
    pairs = page.inner_text("body")
    assert re.search(r"LPIPS measured with AlexNet of \w+, sha256 [0-9a-f]{16}\.", pairs)
    lpips = max(result["value"] for result in verdicts(folder)["port"]["scores"]["lpips"])
    assert 0.01 < lpips < 1
    assert f"{lpips:.4f}" in pairs
    page.click("#grid a.cell:has-text('bug')")  # one: what, and where
    lead = page.inner_text(".lead")
    assert "The transformer differs, and first in block 3, attn1." in lead
    assert BLOCK in lead
    page.click(".where a[href='#blocks']")  # two: how the scan says so
    scan = page.inner_text("#blocks")
    assert re.search(rf"first module over its healthy limit is {BLOCK}[\w.]* at step \d", scan)
    worst = int(np.square(difference(folder).astype(float)).mean(axis=(1, 2, 3)).argmax())
    page.click(".where a.seek >> nth=0")  # three: the frame
    frame_shown(page, worst)


def difference(folder: Path) -> Any:
    return frames(folder, "candidate").astype(int) - frames(folder, "reference")


def test_the_player_shows_the_stored_pixels(page: Page, folder: Path) -> None:
    opened(page, port_page(folder), "#seed=0&frame=5&view=side")
    play(page)
    frame_shown(page, 5)
    page.keyboard.press("Shift+ArrowRight")
    shown = page.inner_text("#pixel")
    for role in ("reference", "candidate"):
        pixel = ", ".join(map(str, frames(folder, role)[5, 32, 33]))
        assert f"{role} ({pixel})" in shown


def port_page(folder: Path) -> Path:
    found = re.search(r'href="(pairs/[^"]+)" data-id="[^"]+" title="[^"]*port vs', overview(folder))
    assert found is not None
    return folder / found[1]


def overview(folder: Path) -> str:
    return (folder / "index.html").read_text()


def test_every_check_of_the_chain_is_on_the_page(page: Page, folder: Path) -> None:
    opened(page, port_page(folder))
    evidence = verdicts(folder)["port"]["evidence"]
    shown = page.locator(".chain .check").count() + page.locator(".chain .quiet tbody tr").count()
    assert shown == len(evidence) > 20
    differing = [check for check in evidence if check["outcome"] == "differs"]
    assert page.locator(".chain .check.differs").count() == len(differing) >= 1
    first = page.locator(".chain .check.differs").first
    assert differing[0]["detail"] in first.inner_text()
    left = [first.locator(f".strip .{what}").first.evaluate("e => parseFloat(e.style.left)")
            for what in ("noise", "limit", "value")]  # fmt: skip
    assert left == sorted(left), "healthy values, limit and measured value in this order"
    details = page.locator(".chain details > summary").all()
    for summary in details:
        summary.click()
    assert page.locator(".chain .quiet tr:visible").count() >= len(evidence) - len(differing) - 5


def test_one_pair_can_be_repeated_alone(folder: Path) -> None:
    text = port_page(folder).read_text()
    assert "~candidates.diffusers_model_offload" in text
    assert "rope_missing_in_block_3" in text
