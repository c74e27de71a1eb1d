"""Nothing passes that was not looked at: one thing of a pair is changed at a time, and rendered.

A sample by kind; `python -m tests.trust.one_thing` tries all of them (`ONE_THING.md`).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pytest

from backends.diffusers.options import DiffusersOptions
from harness.records import Coverage, PairResult
from harness.store import closure, keys
from tests.trust import one_thing
from tests.trust.one_thing import outcomes, sampled, still_unchanged, tried
from tests.trust.one_thing_changes import all_changes
from tests.trust.one_thing_pair import Change, Pair

TRIED: Mapping[str, int] = {
    "weights": 3, "settings": 4, "files": 1, "options": 4, "variables": 1, "remarks": 8, "numbers": 1,
}  # fmt: skip
JUDGED: Mapping[str, int] = {
    "weights": 1,
    "settings": 1,
    "options": 1,
    "variables": 0,
    "numbers": 1,
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def every(pair: Pair) -> list[Change]:
    return all_changes(pair)


def _named(every: list[Change], name: str) -> Change:
    return next(change for change in every if change.name.endswith(name))


def test_the_changes_are_made_from_what_there_is(pair: Pair, every: list[Change]) -> None:
    """Of every tensor, every option, and every source of the transformer and of the backend."""
    tensors = 0
    for path in (pair.folder / "model").rglob("*.safetensors"):
        content = path.read_bytes()
        tensors += content[: 8 + struct.unpack("<Q", content[:8])[0]].count(b'"data_offsets"')
    assert sum(change.kind == "weights" for change in every) == tensors > 400
    assert {name for change in every for name in change.options} == {
        option.name for option in fields(DiffusersOptions)
    }
    for name in (
        "transformer/config.json: num_layers", "scheduler_config.json: beta_end",
        "model_index.json: vae",
        "tokenizer.json: model", "spiece.model", "ATEN_CPU_CAPABILITY=default", "HF_HUB_OFFLINE=1",
        "diffusers/models/transformers/cogvideox_transformer_3d.py", "lent/backends/noise.py",
        "CogVideoXBlock.forward", "CogVideoXDDIMScheduler.step", "T5LayerNorm.forward",
        "CogVideoXPipeline.prepare_latents", "rescale_zero_terminal_snr",
    ):  # fmt: skip
        assert _named(every, name)


@pytest.mark.slow
def test_no_change_that_alters_a_bit_is_a_pass(pair: Pair, every: list[Change]) -> None:
    found = list(outcomes(pair, sampled(every, TRIED, seed=1), JUDGED))
    altered = [outcome for outcome in found if outcome.altered]
    wrong = [outcome for outcome in found if outcome.wrong]
    print(f"{len(found)} tried of {len(every)}, {len(altered)} alter a bit, {len(wrong)} passes")
    assert not wrong, wrong
    assert {"weights", "options"} <= {outcome.change.kind for outcome in altered}
    assert still_unchanged(pair)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ATEN_CPU_CAPABILITY=default", "CogVideoXMidBlock3D.forward"])
def test_a_variable_and_a_source_act_and_are_not_served(
    pair: Pair, every: list[Change], name: str
) -> None:
    """The variable selects other kernels: it was in the key once, and yet no worker had it."""
    outcome = tried(pair, _named(every, name), judge=False)
    assert outcome.altered and not outcome.wrong, outcome


@pytest.mark.slow
@pytest.mark.parametrize("name", ["proj_out.weight", "scheduler_config.json: snr_shift_scale"])
def test_a_key_without_the_files_would_be_found(
    pair: Pair, every: list[Change], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closure, "_digest", lambda reads: "the same")
    monkeypatch.setattr(keys, "named_content", lambda value: "the same")
    assert pair.rendered(pair.candidate)[0].status == "ok"  # under the key that is blind
    outcome = tried(pair, _named(every, name))
    assert outcome.ended == "stale" and outcome.altered and outcome.wrong


def _judged(verdict: str, missing: list[str]) -> PairResult:
    coverage = [Coverage(kind="weights", compared=1, total=1, missing=missing)]
    known: dict[str, Any] = dict.fromkeys(PairResult.model_fields)
    return PairResult.model_construct(**{**known, "verdict": verdict, "coverage": coverage})


@pytest.mark.parametrize(
    ("verdict", "answers", "missing", "wrong"),
    [
        ("bit_exact", 9, [], True), ("policy", 9, [], True), ("chaotic", 9, [], True),
        ("rounding", 0, [], True), ("rounding", 9, ["x"], True), ("rounding", 9, [], False),
        ("approximation", 0, [], True), ("approximation", 9, [], False),
        ("bug", 0, [], False), ("inconclusive", 0, ["x"], False), ("error", 0, [], False),
    ],
)  # fmt: skip
def test_which_verdict_is_a_false_pass(
    verdict: str, answers: int, missing: list[str], wrong: bool
) -> None:
    assert bool(one_thing._wrong(_judged(verdict, missing), answers)) is wrong
