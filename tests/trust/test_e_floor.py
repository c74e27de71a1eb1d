"""Kind E: what a rerun of the reference varies by is no bug, and more exact is not wrong.

A state that a call leaves to the next stays a bug, beside whichever reference.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_pairs import SETTINGS, STEPS, Pairs, Spread

from harness.cli import main
from harness.judge.local import judge_local
from harness.judge.measured import Answers, Links, LocalData, Side
from harness.judge.narrow import settle
from harness.judge.native import judge_itself
from harness.records import Evidence, RenderRecord
from harness.render.frames import quantise

BRANCHES = f"s0.{STEPS[0]}.branches"
AGAIN = {
    "text": ("text.0.text", "text_again.0.text"),
    "transformer": (BRANCHES, f"again.{BRANCHES}"),
    "decoder": ("decode.0.frames", "decode.2.frames"),
}


def _pair() -> LocalData:
    """A healthy pair whose sides repeat themselves to the bit."""
    data = Pairs(3, Spread(0.2, 0.1), Spread(0.08, 0.04)).draw()
    exact = dict(data.reference.full.tensors)
    exact |= {f"plain.text.{i}.text": exact[f"text.{i}.text"] for i in range(3)}
    exact |= {
        f"plain.s{s}.{k}.branches": exact[f"s{s}.{k}.branches"]
        for s in SETTINGS.calibration_seeds
        for k in STEPS
    }
    return _with(data, reference=exact)


def _with(data: LocalData, **tensors: dict[str, Any]) -> LocalData:
    changed = {
        role: Side(
            replace(side.full, tensors={**side.full.tensors, **tensors.get(role, {})}), side.reduced
        )
        for role, side in (("reference", data.reference), ("candidate", data.candidate))
    }
    return replace(data, **changed)


def _varied(data: LocalData, role: str, size: float) -> LocalData:
    """`role` answers otherwise by `size`, relative, whenever it is asked again."""
    side = data.reference if role == "reference" else data.candidate
    rng, found = np.random.default_rng(7), dict(side.full.tensors)
    repeats = [name for pair in AGAIN.values() for name in pair[1:]]
    for name in (*repeats, *(n for n in found if n.startswith("plain."))):
        found[name] = found[name] * (1 + size * rng.standard_normal(found[name].shape))
    return _with(data, **{role: found})


def _order(data: LocalData) -> dict[str, Evidence]:
    return {e.component or "": e for e in judge_local(data) if e.stage == "order"}


@pytest.mark.parametrize("floor", [1e-7, 1e-5, 1e-3])
def test_two_sides_that_vary_alike_agree(floor: float) -> None:
    data = _varied(_varied(_pair(), "reference", floor), "candidate", floor)
    assert {e.outcome for e in _order(data).values()} == {"agrees"}


@pytest.mark.parametrize("component", AGAIN)
@pytest.mark.parametrize("floor", [0.0, 1e-7, 1e-5])
def test_a_state_beyond_the_floor_is_found_beside_any_reference(
    component: str, floor: float
) -> None:
    data = _varied(_pair(), "reference", floor) if floor else _pair()
    first, again = AGAIN[component]
    state = data.candidate.full.tensors[first] * (1 + 1e-3)
    found = _order(_with(data, candidate={again: state}))
    assert found[component].outcome == "differs"
    assert "keeps state" in found[component].detail
    assert {e.outcome for name, e in found.items() if name != component} == {"agrees"}


def test_one_side_that_varies_by_rounding_is_noted_and_never_silent() -> None:
    found = _order(_varied(_pair(), "candidate", 1e-7))
    assert {e.outcome for e in found.values()} == {"noted"}
    assert all("do not repeat themselves to the bit" in e.detail for e in found.values())


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_what_is_not_finite_twice_alike_keeps_no_state_and_once_does(value: float) -> None:
    data = _pair()
    broken = data.candidate.full.tensors[BRANCHES].copy()
    broken[0, :4] = value
    same = _order(_with(data, candidate={BRANCHES: broken, f"again.{BRANCHES}": broken}))
    assert same["transformer"].outcome == "agrees"
    once = _order(_with(data, candidate={f"again.{BRANCHES}": broken}))
    assert once["transformer"].outcome == "differs"
    assert "not the other time" in once["transformer"].detail


def _exact(data: LocalData, gap: float = 0.0) -> Answers:
    """What float64 says: the truth, which the pairs' sides err from, or another by `gap`."""
    tensors: dict[str, Any] = {}
    for s in SETTINGS.seeds:
        for k in STEPS:
            truth = data.candidate.full.tensors[f"truth.s{s}.{k}"]
            tensors[f"precise.s{s}.{k}.branches"] = truth * (1 + gap)
            wide = truth[0] + 6.0 * (truth[1] - truth[0])
            tensors[f"precise.s{s}.{k}.velocity"] = wide
    return Answers(data.reference.full.pipeline, tensors)


def _rough(reference: float, candidate: float, fault: float = 0.0) -> LocalData:
    """A pair whose branches err by these, relative to the truth; a `fault` scales the candidate's."""
    data, rng = _pair(), np.random.default_rng(1)
    sides: dict[str, dict[str, Any]] = {"reference": {}, "candidate": {}}
    for s in SETTINGS.seeds:
        for k in STEPS:
            truth = data.candidate.full.tensors[f"s{s}.{k}.branches"].astype(np.float64)
            sides["candidate"][f"truth.s{s}.{k}"] = truth
            for role, error, scale in (
                ("reference", reference, 1.0), ("candidate", candidate, 1 + fault)
            ):  # fmt: skip
                noise = error * rng.standard_normal(truth.shape)
                sides[role][f"s{s}.{k}.branches"] = truth * scale + noise
    return _with(data, **sides)


def _settled(data: LocalData, candidate: Any, reference: Any = None) -> tuple[LocalData, Evidence]:
    answers = {"reference": reference or _exact(data), "candidate": candidate}
    data, chain = settle(data, judge_local(data), lambda role, places: answers[role])
    (found,) = [e for e in chain if e.check == "collapse.transformer"]
    return data, found


def test_a_more_exact_candidate_agrees_and_is_said_to_be() -> None:
    rough = _rough(reference=2e-5, candidate=1e-6)
    (before,) = [e for e in judge_local(rough) if e.check == "collapse.transformer"]
    data, found = _settled(rough, _exact(rough))
    assert (before.outcome, found.outcome) == ("differs", "agrees")
    assert "more exact than the reference, whose float32 scalar paths" in found.detail
    assert set(data.reference_error) == set(STEPS)


@pytest.mark.parametrize(
    ("reference", "candidate", "fault", "gap"),
    [
        (1e-6, 2e-5, 0.0, 0.0),  # less exact
        (2e-5, 1e-6, 1e-5, 1e-5),  # nearer than the reference, and wrong within its error
        (1e-6, 1e-6, 1e-4, 1e-4),
    ],
)
def test_a_worse_or_wrong_candidate_is_found_whatever_the_reference_errs_by(
    reference: float, candidate: float, fault: float, gap: float
) -> None:
    data = _rough(reference, candidate, fault)
    _, found = _settled(data, _exact(data, gap))
    assert found.outcome == "differs"


def test_where_float64_is_not_to_be_had_nothing_passes_unseen() -> None:
    data = _rough(reference=2e-5, candidate=1e-6)
    assert _settled(data, _exact(data), "no float64 here")[1].outcome == "unscored"
    # The reference alone suffices where the candidate lies as near to it as rounding allows.
    assert _settled(data, "no float64 here")[1].outcome == "agrees"
    doubtful = _rough(reference=4e-5, candidate=2e-5)
    assert _settled(doubtful, "no float64 here")[1].outcome == "unscored"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store, so that the plain reference answers once."""
    return tmp_path_factory.mktemp("floor")


def _probe(folder: Path, *settings: str) -> Any:
    main([
        "probe", "case=micro_2b_quick", "reference.name=reference", "candidate=[diffusers]",
        "--plugin", "tests.selftest.faults.harmless", *settings,
        f"store={folder}/store", f"results={folder}/results",
    ])  # fmt: skip
    (pair,) = json.loads((folder / "results" / "latest" / "verdict.json").read_text())["pairs"]
    return pair


@pytest.mark.parametrize(
    ("reference", "candidate", "verdict"),
    [
        ("sinusoid_rough", None, "rounding"),
        (None, "sinusoid_rough", "bug"),
        ("kernels_vary", "kernels_vary", "rounding"),
        (None, "kernels_vary", "rounding"),
    ],
    ids=["more exact", "less exact", "both vary", "one varies"],
)
def test_on_a_model(
    folder: Path, reference: str | None, candidate: str | None, verdict: str
) -> None:
    settings = [] if reference is None else [f"reference.patch=harmless_{reference}"]
    if candidate is not None:
        settings.append(f"candidates.diffusers.patch=harmless_{candidate}")
    if reference == candidate:  # or the two would be one thing
        settings.append("candidates.diffusers.attention=math")
    assert _probe(folder, *settings)["verdict"] == verdict


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ("candidates.diffusers.text_dtype=bfloat16",),
        (
            "reference.dtype=bfloat16",
            "candidates.diffusers.dtype=bfloat16",
            "candidates.diffusers.text_dtype=float32",
        ),
    ],
    ids=["text in bfloat16", "text in float32"],
)
def test_a_text_encoder_in_a_precision_of_its_own_rounds(
    folder: Path, settings: tuple[str, ...]
) -> None:
    """The embeddings that the runs used differ, by what one precision more or less makes."""
    main([
        "run", "case=micro_2b_quick", "reference.name=reference", "candidate=[diffusers]",
        *settings, f"store={folder}/store", f"results={folder}/results",
    ])  # fmt: skip
    (pair,) = json.loads((folder / "results" / "latest" / "verdict.json").read_text())["pairs"]
    assert pair["verdict"] == "rounding", pair["reasons"]
    assert [f for f in pair["findings"] if f["known"] is None] == []


def test_a_second_decode_of_another_size_is_judged() -> None:
    """Tiling that is left on gives a video of another size the second time, and no crash."""
    first = np.zeros((9, 64, 64, 3), np.float32)
    record = RenderRecord(
        key="k", case={}, variant={}, seed=0, repeat=0, share=[], inputs_key=None, status="ok",
        created="",
    )  # fmt: skip
    data = _pair()
    links = Links("candidate", record, {}, quantise(first), data.table, (), data.candidate.full)
    again = {"decode.0.frames": first, "decode.1.frames": np.zeros((9, 70, 68, 3), np.float32)}
    (check,) = judge_itself(links, again, data)
    assert (check.outcome, check.limit) == ("agrees", 0.0)
    swapped = {"decode.0.frames": again["decode.1.frames"], "decode.1.frames": first}
    (check,) = judge_itself(links, swapped, data)
    assert (check.outcome, check.component) == ("differs", "frames")
