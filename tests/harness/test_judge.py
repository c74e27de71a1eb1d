"""Decisions are pure: evidence in, verdict out, and nothing uncomputed is ever a pass."""

import math

import pytest

from harness.judge.decide import decide, missing
from harness.judge.exact import compare_pipelines
from harness.judge.known import KNOWN
from harness.records import PairResult, PipelineRecord, RenderRecord, SeedDistances
from harness.session import exit_code


def _distance(gap: float | None = 0.0, equal: bool = True) -> SeedDistances:
    return SeedDistances(
        seed=0, latents_rel_l2=gap, per_step_rel_l2=[0.0], first_step=None if equal else 0,
        frames_equal=equal, latents_equal=equal,
    )  # fmt: skip


def _render(status: str, message: str | None = None) -> RenderRecord:
    return RenderRecord(
        key="k", case={}, variant={}, seed=3, repeat=0, share=[], inputs_key=None,
        status=status, message=message, created="",
    )  # fmt: skip


def _pipeline(**changes) -> PipelineRecord:
    fields = {
        "weights": {"transformer.a": "1", "vae.b": "2"},
        "dtypes": {"transformer": "float32"},
        "configs": {"vae.scaling_factor": 0.7, "placement.kind": "full"},
        "policies": {"schedule": "x", "layer_norm_eps": 1e-5},
    }
    return PipelineRecord(**(fields | changes))


def test_equal_bits_are_bit_exact() -> None:
    assert decide([], [_distance(), _distance()], [])[0] == "bit_exact"


def test_one_differing_seed_is_not_bit_exact() -> None:
    verdict, reasons = decide([], [_distance(), _distance(1e-7, False)], [_distance()])
    assert verdict == "inconclusive"
    assert "1e-07" in reasons[0]
    assert "equal in every bit" in reasons[1]


@pytest.mark.parametrize("gap", [None, math.nan])
def test_a_distance_that_could_not_be_computed_counts_as_infinite(gap: float | None) -> None:
    verdict, reasons = decide([], [_distance(gap, False)], [])
    assert verdict == "inconclusive"
    assert "inf" in reasons[0]


def test_equal_frames_with_unequal_latents_are_not_bit_exact() -> None:
    odd = _distance(0.0).model_copy(update={"latents_equal": False})
    assert decide([], [odd], [])[0] == "inconclusive"


def test_hard_failures_win_over_equality() -> None:
    assert decide(["reference, seed 0: black"], [_distance()], [])[0] == "broken"


def test_nothing_compared_is_inconclusive() -> None:
    assert decide([], [], [])[0] == "inconclusive"


def test_missing_renders_are_named_and_errors_come_first() -> None:
    renders = [("reference", _render("ok")), ("candidate", _render("unsupported", "no"))]
    assert missing(renders) == ("unsupported", ["candidate, seed 3: no"])
    assert missing([*renders, ("rerun", _render("error", "died"))]) == (
        "error",
        ["rerun, seed 3: died"],
    )
    assert missing(renders[:1]) is None


def test_identical_pipelines_have_no_findings() -> None:
    assert compare_pipelines(_pipeline(), _pipeline()) == []


def test_where_a_pipeline_runs_is_not_a_finding() -> None:
    moved = _pipeline(configs={"vae.scaling_factor": 0.7, "placement.kind": "model_offload"})
    assert compare_pipelines(_pipeline(), moved) == []


@pytest.mark.parametrize(
    ("change", "kind", "name"),
    [
        ({"weights": {"transformer.a": "1", "vae.b": "9"}}, "weights", "vae.b"),
        ({"weights": {"transformer.a": "1"}}, "weights", "vae.b"),
        (
            {"weights": {"transformer.a": "1", "vae.b": "2", "vae.c": "3"}},
            "weights",
            "vae.c",
        ),
        ({"dtypes": {"transformer": "bfloat16"}}, "dtype", "transformer"),
        (
            {"configs": {"vae.scaling_factor": 1.15, "placement.kind": "full"}},
            "config",
            "vae.scaling_factor",
        ),
        ({"policies": {"schedule": "x", "layer_norm_eps": 1e-6}}, "policy", "layer_norm_eps"),
    ],
)
def test_each_exact_difference_is_one_named_finding(change, kind: str, name: str) -> None:
    (finding,) = compare_pipelines(_pipeline(), _pipeline(**change))
    assert (finding.kind, finding.name) == (kind, name)


def test_known_differences_name_a_source_and_a_unique_id() -> None:
    assert len({row.id for row in KNOWN}) == len(KNOWN)
    assert all(row.source and row.says for row in KNOWN)


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["bit_exact", "bit_exact"], 0),
        (["bit_exact", "unsupported"], 0),
        (["unsupported"], 3),
        ([], 3),
        (["bit_exact", "inconclusive"], 3),
        (["inconclusive", "error"], 2),
        (["not_run"], 2),
        (["broken", "error"], 1),
    ],
)
def test_exit_codes(verdicts: list[str], code: int) -> None:
    pairs = [
        PairResult(
            case="c",
            model="m",
            reference="a",
            candidate="b",
            verdict=v,
            reasons=[],
            findings=[],
            share=[],
            seeds=[],
            distances=[],
            floor=[],
            scores={},
            floor_scores={},
            renders={},
            cost_guided_calls=0,
        )
        for v in verdicts
    ]
    assert exit_code(pairs) == code
